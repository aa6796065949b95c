"""Settings: strict about names and types, frozen, and kind about what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError, model_validator

from lte.config import Config, ConfigError, load, parse


class Optimiser(Config):
    """Inner settings."""

    learning_rate: float = Field(1e-3, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)


class Training(Config):
    """Outer settings."""

    steps: int = 10
    name: str = "run"
    layers: tuple[int, ...] = ()
    optimiser: Optimiser = Optimiser()
    second: Optimiser | None = None

    @model_validator(mode="after")
    def _enough(self) -> Training:
        if self.steps < len(self.layers):
            raise ValueError("fewer steps than layers")
        return self


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "train.yaml"
    path.write_text("# lte align train.yaml\nsteps: 20\noptimiser:\n  learning_rate: 0.5\n", encoding="utf-8")
    return path


def test_a_file_is_read_and_the_rest_is_default(file: Path) -> None:
    assert load(Training, file) == Training(steps=20, optimiser=Optimiser(learning_rate=0.5))


def test_no_file_is_all_defaults() -> None:
    assert load(Training) == Training()


def test_an_empty_file_is_all_defaults(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("# nothing set\n", encoding="utf-8")
    assert load(Training, tmp_path / "empty.yaml") == Training()


def test_overrides_win_and_reach_inside(file: Path) -> None:
    settings = load(
        Training, file, ["optimiser.learning_rate=1e-4", "name=a b", "layers=[1, 2]", "second.betas=[0, 1]"]
    )
    assert settings.optimiser.learning_rate == 1e-4
    assert (settings.steps, settings.name, settings.layers) == (20, "a b", (1, 2))
    assert settings.second == Optimiser(betas=(0.0, 1.0))


def test_an_override_may_hold_an_equals_sign_and_be_empty() -> None:
    assert load(Training, overrides=["name=a=b"]).name == "a=b"
    assert load(Training, overrides=["second="]).second is None


def test_a_colon_in_an_override_makes_no_mapping() -> None:
    assert load(Training, overrides=["name=:memory:"]).name == ":memory:"
    assert load(Training, overrides=["name=a: b"]).name == "a: b"
    assert load(Training, overrides=["optimiser={learning_rate: 0.5}"]).optimiser.learning_rate == 0.5


@given(st.floats(min_value=1e-30, max_value=1e30))
def test_any_float_survives_an_override(rate: float) -> None:
    assert load(Training, overrides=[f"optimiser.learning_rate={rate}"]).optimiser.learning_rate == rate


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Training().steps = 3  # type: ignore[misc]


def test_an_unknown_setting_names_the_file_the_known_ones_and_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "train.yaml"
    path.write_text("stepps: 3\n", encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        load(Training, path)
    assert str(error.value) == (
        f"{path}: stepps: no such setting; Training has steps, name, layers, optimiser, second. Did you mean 'steps'?"
    )


@pytest.mark.parametrize("outer", ["optimiser", "second"])
def test_an_unknown_inner_setting_is_answered_by_its_owner(outer: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(Training, overrides=[f"{outer}.learningrate=1"])
    assert str(error.value) == (
        f"--set: {outer}.learningrate: no such setting; Optimiser has learning_rate, betas. "
        "Did you mean 'learning_rate'?"
    )


def test_nothing_is_suggested_where_nothing_is_near() -> None:
    with pytest.raises(ConfigError) as error:
        load(Training, overrides=["zzz=1"])
    assert "Did you mean" not in str(error.value)


def test_a_wrong_value_says_where_why_and_what_came() -> None:
    with pytest.raises(ConfigError) as error:
        load(Training, overrides=["optimiser.learning_rate=-1", "steps=many"])
    lines = str(error.value).splitlines()
    assert len(lines) == 2
    assert any("--set: steps: " in line and "(got 'many')" in line for line in lines)
    assert any("--set: optimiser.learning_rate: " in line and "greater than 0" in line for line in lines)


def test_a_check_over_several_settings_has_no_empty_place() -> None:
    with pytest.raises(ConfigError, match=r"^--set: Value error, fewer steps than layers"):
        load(Training, overrides=["steps=1", "layers=[1, 2]"])


@pytest.mark.parametrize("override", ["steps", "=3", "  =3"])
def test_an_override_without_name_or_value_shows_the_form(override: str) -> None:
    with pytest.raises(ConfigError, match="wanted name=value"):
        load(Training, overrides=[override])


def test_an_override_below_a_value_is_refused(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"--set steps\.x=1: steps is a value"):
        load(Training, file, ["steps.x=1"])


def test_an_override_that_is_no_yaml_is_refused() -> None:
    with pytest.raises(ConfigError, match="the value is not YAML"):
        load(Training, overrides=["layers=[1, 2"])


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("- 1\n- 2\n", "holds a list; wanted settings"), ("a: [1\n", "not YAML"), ("1: 2\n", "1")],
)
def test_a_file_of_something_else_is_refused_by_name(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        load(Training, path)
    assert str(error.value).startswith(f"{path}: ") and complaint in str(error.value)


def test_a_file_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read \(No such file or directory\)"):
        load(Training, tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load(Training, tmp_path)
    (tmp_path / "bytes.yaml").write_bytes(b"name: \xff\xfe")
    with pytest.raises(ConfigError, match=r"bytes\.yaml: not YAML"):
        load(Training, tmp_path / "bytes.yaml")


def test_parse_calls_its_source_by_name() -> None:
    assert parse(Training, {"steps": 3}, "request") == Training(steps=3)
    with pytest.raises(ConfigError, match=r"^request: name: "):
        parse(Training, {"name": 5}, "request")
