"""What upstreams call the model and its adapter, and whether that adapter was made for the words written here."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from lte.prompt import TEMPLATE_ID
from lte.serve.config import ServeConfig
from lte.serve.errors import ServeError
from lte.serve.models import BASE
from lte.serve.upstream_pool import Cards, cards_of

logger = logging.getLogger(__name__)
MANIFEST = "lte.json"  # beside an adapter: template id, hash of the weights that it was trained on


@dataclass(frozen=True)
class Names:
    """How the upstreams call what clients call `public` and `public:base`, and the adapter (None: there is none)."""

    public: str
    base: str
    off: str
    adapter: str | None

    def missing(self, cards: Cards) -> str | None:
        """What a server lacks of them; None where it has them all."""
        wanted = {self.base, self.off, self.adapter} - {None}
        return f"it has no model {sorted(map(str, wanted - set(cards)))}" if wanted - set(cards) else None


def address(url: str) -> str:
    """Where a server is, without the path of its API; `ServeError` for what is no address."""
    bare = url.strip().rstrip("/").removesuffix("/chat/completions").removesuffix("/v1")
    try:
        parsed = httpx.URL(bare)
    except httpx.InvalidURL as error:
        raise ServeError(f"upstreams: {url!r}: {error}; wanted e.g. http://127.0.0.1:8000") from error
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.userinfo or parsed.query or parsed.fragment:
        raise ServeError(f"upstreams: {url!r}: no address of a server; wanted e.g. http://127.0.0.1:8000")
    return bare


def ask_models(url: str, headers: Mapping[str, str], timeout: float) -> Cards | None:
    """The models of a server; None where it cannot be reached."""
    try:
        with httpx.Client(trust_env=False, timeout=timeout) as client:
            return cards_of(client.get(f"{url}/v1/models", headers=dict(headers)))
    except httpx.TransportError as error:
        logger.warning("%s: not there (%s)", url, error)
        return None
    except ServeError as error:
        raise ServeError(f"{url}: {error}") from error


def names_of(config: ServeConfig, cards: Cards) -> Names:
    """The names, out of one server's models; `ServeError` where none is the model."""
    plain = [name for name, card in cards.items() if not card.get("parent") and not name.endswith(BASE)]
    plain = [name for name in plain if name != config.adapter]
    base = config.upstream.base or (config.name if config.name in cards else None)
    if base is None and len(plain) == 1:
        [base] = plain
    if base is None or base not in cards:
        raise ServeError(
            f"upstream.base: the upstream has {sorted(cards)}; name the one to be edited, e.g. "
            f"--set upstream.base={(plain or sorted(cards))[0]}"
        )
    public = config.name or base
    off = public + BASE if public + BASE in cards else base  # where it has that name too, bytes need no change
    return Names(public, base, off, config.adapter if config.adapter in cards else None)


def check_adapter(config: ServeConfig, names: Names, cards: Cards, url: str) -> None:
    """`ServeError` for an adapter that was trained on other words, or on other weights, than it would be served with.

    Its manifest is read from `adapter_path`, or from the folder that an upstream on this machine says it has it from.
    """
    if names.adapter is None:
        return
    here = _on_this_machine(url)
    folder = config.adapter_path or (cards[names.adapter].get("root") if here else None)
    manifest = _manifest(folder)
    if manifest is None:
        logger.warning(
            "adapter %r: cannot be checked, as its manifest is not at hand; give its folder with "
            "--set adapter_path=DIR",
            names.adapter,
        )
        return
    if manifest.get("template") != TEMPLATE_ID:
        raise ServeError(
            f"{folder}: trained on the prompt template {manifest.get('template')!r}, this lte writes {TEMPLATE_ID!r}; "
            "align the model again, or serve it with the lte it was trained by"
        )
    trained, root = manifest.get("base_sha256"), cards[names.base].get("root") if here else None
    if not (trained and root and config.upstream.check_weights and any(Path(str(root)).glob("*.safetensors"))):
        logger.warning("adapter %r: its template fits; the weights it was trained on were not compared", names.adapter)
    elif trained not in weight_hashes(Path(str(root))):
        raise ServeError(
            f"{folder}: trained on other weights than those in {root}: its base has SHA-256 {trained}; serve its own "
            "base model, align this one, or take it as it is with --set upstream.check_weights=false"
        )


def _manifest(folder: Any) -> dict[str, Any] | None:
    if not folder:
        return None
    file = Path(str(folder), MANIFEST)
    try:
        return dict(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else None
    except (OSError, ValueError, TypeError) as error:
        raise ServeError(f"{file}: cannot be read ({error}); restore it, or align the model again") from error


def weight_hashes(folder: Path) -> set[str]:
    """What `LM.weight_hash` may give for the weights of a folder: as they are stored, and in each dtype to load in."""
    import torch
    from safetensors import safe_open

    where: dict[str, Path] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            where |= dict.fromkeys(tensors.keys(), file)
    found = set()
    for dtype in (None, torch.float32, torch.bfloat16, torch.float16):
        digest = hashlib.sha256()
        for name, file in sorted(where.items()):
            with safe_open(file, "pt") as tensors:
                tensor = tensors.get_tensor(name)
            tensor = tensor if dtype is None else tensor.to(dtype)
            digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        found.add(digest.hexdigest())
    return found


def _on_this_machine(url: str) -> bool:
    host = httpx.URL(url).host
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
