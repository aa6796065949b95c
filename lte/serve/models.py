"""/v1/models: the model that answers by the edits, and the same model as it was before any of them."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter

from lte.serve.errors import ServeError
from lte.serve.wire import Editing, ModelCard

BASE = ":base"


class Models:
    """The two names a client can ask for: `name`, with edits, and `name:base`, without.

    prompt_only  whether edits go to the unaligned model: its card says so
    """

    def __init__(self, name: str, prompt_only: bool = False) -> None:
        now = int(time.time())
        edited = Editing(edits=True, mode="prompt-only" if prompt_only else "adapter")
        self.cards = {
            name: ModelCard(id=name, created=now, lte=edited),
            name + BASE: ModelCard(id=name + BASE, created=now, lte=Editing(edits=False)),
        }

    def edited(self, name: str) -> bool:
        """Whether the model of this name answers by the edits; 404 for a name that is neither."""
        return not self.card(name).id.endswith(BASE)

    def card(self, name: str) -> ModelCard:
        """The model's card, or 404."""
        if name not in self.cards:
            known = " and ".join(self.cards)
            raise ServeError(f"model: {name!r} is not served here; there are {known}", 404, "model", "model_not_found")
        return self.cards[name]


def model_routes(models: Models) -> APIRouter:
    """The routes under /v1/models."""
    router = APIRouter(prefix="/v1/models", tags=["models"])

    @router.get("")
    async def listing() -> dict[str, Any]:
        """Both models."""
        return {"object": "list", "data": [c.model_dump() for c in models.cards.values()]}

    @router.get("/{name:path}")  # hub ids hold a slash
    async def get(name: str) -> dict[str, Any]:
        """One model."""
        return models.card(name).model_dump()

    return router
