"""The bugs that other editing code is known to have, by number, and the test here that would fail if ours had them.

The numbers are those of the project's list; what was not tested anywhere else is in the files called test_known_bugs_*.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
BUGS: dict[str, tuple[str, ...]] = {
    "B1 two keys in one update": (
        "editors/test_rome.py::test_b1_the_pair_is_stored_at_the_key_it_was_computed_for",
        "editors/test_rome.py::test_b1_subjects_that_open_the_prompt_change_the_weight_no_more_than_others",
        "editors/test_solve.py::test_b1_the_system_between_edits_is_positive_whatever_the_keys",
    ),
    "B2 no covariance": (
        "editors/test_known_bugs_edited.py::test_b02_ordinary_outputs_drift_less_by_their_statistics_than_without",
        "editors/test_rome.py::test_b2_there_is_no_rome_without_statistics",
    ),
    "B3 BOS scored as a token of the answer": (
        "models/test_score.py::test_b3_a_score_is_the_mean_log_softmax_of_the_whole_sequence",
        "models/test_score.py::test_b3_so_it_is_for_other_tokenizers",
        "models/test_score.py::test_b3_the_folder_s_name_changes_nothing",
    ),
    "B4 the answer tokenised apart from its prompt": (
        "editors/test_known_bugs_edited.py::test_b04_ten_thousand_answers_come_back",
        "models/test_tokens.py::test_b4_the_target_s_tokens_are_those_of_the_whole_text",
    ),
    "B5 the subject found by counting tokens": (
        "models/test_tokens.py::test_b5_the_span_holds_the_subject_and_ends_in_the_token_of_its_last_character",
        "editors/test_contexts.py::test_b4_b5_answer_and_subject_are_found_whatever_they_hold",
        "editors/test_bad_input.py::test_a_subject_that_ends_within_a_token_is_read_at_that_token",
    ),
    "B6 right tokens counted under teacher forcing as answers": (
        "evaluate/test_known_bugs_evaluated.py::test_b06_a_shared_start_is_no_answer",
        "models/test_score.py::test_b6_a_right_start_is_not_an_exact_answer",
    ),
    "B7 BOS twice, answers cut at a full stop, a judge that is silently absent": (
        "models/test_tokens.py::test_b7_a_chat_prompt_begins_with_bos_once",
        "models/test_tokens.py::test_b7_a_target_stands_where_the_template_puts_an_answer",
        "models/test_answer.py::test_b7_an_abbreviation_is_neither_cut_nor_cleaned",
        "evaluate/test_judge.py::test_a_reply_that_is_no_verdict",
        "evaluate/test_evaluate_served.py::test_a_judge_without_its_key_stops_the_run_before_it_begins",
        "evaluate/test_known_bugs_evaluated.py::test_b07_every_figure_names_its_scoring",
    ),
    "B8 padding told by the end token": (
        "models/test_score.py::test_b8_padding_with_the_end_token_hides_no_end_token_inside_a_prompt",
        "models/test_score.py::test_b8_a_tokenizer_without_a_padding_token_scores_batches",
    ),
    "B9 every answer token trained at one place": (
        "editors/test_ft_l.py::test_b9_an_answer_of_several_tokens_is_said",
        "editors/test_finetune.py::test_b9_answers_of_several_tokens_are_said_and_ended_by_themselves",
        "editors/test_contexts.py::test_b9_no_special_token_is_learnt_but_the_end_of_the_turn",
    ),
    "B10 answers before an edit taken from a model edited before": (
        "evaluate/test_known_bugs_evaluated.py::test_b10_locality_is_measured_against_the_unedited_model",
        "evaluate/test_baseline.py::test_another_model_is_asked_anew",
    ),
    "B11 figures right after an edit only": (
        "evaluate/test_baseline.py::test_forgetting_shows_at_the_end_by_age_and_on_the_way",
    ),
    "B12 state kept in the module": (
        "editors/test_editor_contract.py::test_editors_in_one_process_are_isolated",
        "editors/test_alphaedit.py::test_b12_what_is_remembered_is_one_editors_and_one_models",
    ),
    "B13 statistics kept under a name, prefixes without a seed": (
        "editors/test_second_moments.py::test_b13_other_weights_text_budget_or_bos_are_measured_anew",
        "editors/test_editor_contract.py::test_the_same_seed_makes_the_same_change_to_the_bit",
        "editors/test_statistics_stream.py::test_b13_a_fine_tuned_checkpoint_of_the_same_name_has_a_file_of_its_own",
        "editors/test_bad_numbers.py::test_statistics_of_another_model_are_never_taken",
    ),
    "B14 editors scored in different ways": (
        "evaluate/test_known_bugs_evaluated.py::test_b14_every_editor_is_scored_alike",
        "evaluate/test_compare.py::test_what_is_not_the_same_is_said",
        "editors/test_in_context.py::test_a_query_out_of_scope_is_the_base_models_to_the_bit",
    ),
    "B15 keys run together, flags that are always on, names matched in part": (
        "evaluate/test_known_bugs_evaluated.py::test_b15_a_switch_is_on_or_off_and_nothing_else",
        "evaluate/test_known_bugs_evaluated.py::test_b15_no_two_strings_stand_beside_each_other",
        "evaluate/test_known_bugs_evaluated.py::test_b15_a_part_of_a_name_is_no_name",
        "evaluate/test_known_bugs_evaluated.py::test_b07_every_figure_names_its_scoring",
    ),
    "B16 one key for two metrics": (
        "evaluate/test_metrics.py::test_every_metric_has_a_version_and_a_meaning",
        "evaluate/test_metric_oracle.py::test_a_metric_is_what_it_is_by_hand",
        "evaluate/test_legacy.py::test_a_text_is_seeded_and_a_hundred_tokens_long_with_its_prompt",
    ),
    "B17 changes added in the weight's own dtype": (
        "editors/test_rounding.py::test_b17_a_thousand_edits_in_turn_are_one_write_of_their_sum",
        "editors/test_rounding.py::test_b17_edits_in_turn_are_rounded_once_joined_or_not",
    ),
    "B18 blocks that give a tuple, gradients lost on the way": (
        "editors/test_known_bugs_edited.py::test_b18_blocks_that_give_a_tuple_make_the_same_change",
        "editors/test_values.py::test_b18_the_gradient_is_that_of_finite_differences",
        "models/test_trace.py::test_b18_a_tuple_is_seen_and_changed",
    ),
    "B19 places that hold for one padding side": (
        "editors/test_editor_contract.py::test_either_padding_side_makes_the_same_change",
        "models/test_score.py::test_b19_neither_the_batch_nor_the_padding_side_changes_a_score",
    ),
    "B20 a layout guessed by name": (
        "editors/test_known_bugs_edited.py::test_b20_every_architecture_is_edited_in_the_parameters_named",
        "models/test_layout.py::test_b20_a_name_decides_nothing",
        "models/test_layout.py::test_b20_the_weight_is_out_by_in_and_maps_key_to_value",
    ),
    "B21 a key twice, pseudo-inverted": (
        "editors/test_solve.py::test_b21_a_key_twice_is_refused_by_name_and_never_pseudo_inverted",
        "editors/test_emmet.py::test_b21_edits_with_one_key_are_named_and_nothing_changes",
        "editors/test_bad_numbers.py::test_of_edits_with_one_prompt_the_last_counts",
    ),
    "B22 an editor that hardly edits": ("editors/test_smoke_floor.py::test_b22_ten_edits_are_said",),
    "B23 statistics in batches without a bound": (
        "editors/test_statistics_stream.py::test_b23_a_forward_stays_within_the_cap_at_a_context_of_128k",
        "editors/test_statistics_stream.py::test_memory_does_not_grow_with_the_text",
    ),
}
INVARIANTS: dict[str, str] = {
    "one edit: EMMET is ROME": "editors/test_solve.py::test_emmet_of_one_edit_is_rome",
    "MEMIT(λ = αw) is EMMET(w, α)": "editors/test_solve.py::test_memit_with_weight_alpha_w_is_emmet_with_w_times_c",
    "λ → 0 meets the values, λ → ∞ changes nothing": (
        "editors/test_solve.py::test_a_weight_that_vanishes_meets_the_values_and_one_that_grows_changes_nothing"
    ),
    "Δ does not depend on the order": "editors/test_solve.py::test_the_order_of_the_edits_changes_nothing",
    "tr(ΔCΔᵀ) falls as λ rises": "editors/test_solve.py::test_ordinary_keys_are_moved_less_the_more_they_weigh",
    "MEMIT over one layer is a single-layer editor": "editors/test_memit.py::test_one_layer_is_emmet_with_that_weight",
    "apply, then undo: every bit": "editors/test_editor_contract.py::test_undo_restores_every_bit",
    "AlphaEdit with P = I is ridge": "editors/test_nullspace.py::test_with_every_direction_free_it_is_ridge_regression",
    "AlphaEdit: tr(ΔCΔᵀ) ≤ threshold · ‖Δ‖²": (
        "editors/test_nullspace.py::test_ordinary_outputs_move_by_less_than_the_threshold"
    ),
}


def test_every_known_bug_has_its_number() -> None:
    assert [name.split()[0] for name in BUGS] == [f"B{n}" for n in range(1, 24)]
    assert all(BUGS.values())


@pytest.mark.parametrize("test", sorted({t for tests in BUGS.values() for t in tests} | set(INVARIANTS.values())))
def test_the_test_that_is_named_is_there(test: str) -> None:
    file, _, name = test.partition("::")
    functions = [n.name for n in ast.parse((TESTS / file).read_text("utf-8")).body if isinstance(n, ast.FunctionDef)]
    assert name in functions and name.startswith("test_")
