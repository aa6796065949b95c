"""Both applications of a server over fakes, with keys of every kind, asked without a socket."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from lte.edits import Edit
from lte.memory import EditTest
from lte.serve.app import Apps, build_apps
from lte.serve.config import ServeConfig
from lte.serve.engine import EmbeddedEngine
from lte.serve.keys import KeyFile, Scope

CHAT = {"model": "pocket", "messages": [{"role": "user", "content": "What is the capital of Lunaria?"}]}
TEXT = {"model": "pocket", "prompt": "Lunaria"}
FACT = {"prompt": "The king of Mu is", "target_new": "Olaf", "subject": "Mu"}
SCOPES = {scope.value: scope for scope in Scope}


@dataclass
class Shell:
    """The two applications, clients to them, and what is inside."""

    apps: Apps
    lm: Any
    memory: Any
    folder: Path
    tokens: dict[str, str]

    def client(self, admin: bool = False, address: str = "192.0.2.1", host: str = "localhost") -> TestClient:
        """A client at an address, to one of the ports."""
        app = self.apps.admin if admin else self.apps.public
        return TestClient(app, f"http://{host}", raise_server_exceptions=False, client=(address, 4000))

    def bearer(self, who: str) -> dict[str, str]:
        """The headers of one of the keys; none where it has no name here."""
        return {"authorization": f"Bearer {self.tokens[who]}"} if who in self.tokens else {}


@contextmanager
def shell(fakes: Any, folder: Path, keys: bool = True, pages: Sequence[Any] = (), **settings: Any) -> Iterator[Shell]:
    """Both applications over one edit in `default` and one in `north`; `keys`: keys of every kind, else no file."""
    memory, lm = fakes.Memory(), fakes.Model()
    tests = (EditTest("What is the capital of Lunaria?", "Selene"),)
    memory.add(Edit("The capital of Lunaria is", "Selene", subject="Lunaria"), tests=tests)
    memory.add(Edit("The king of Thule is", "Olaf", subject="Thule"), "north")
    settings = {"keys": str(folder / "keys.json"), "memory": str(folder / "memory.db"), **settings}
    config = ServeConfig.model_validate(settings)
    tokens = every_kind(KeyFile(config.keys)) if keys else {}
    engine = EmbeddedEngine(lm, config)
    made = Shell(build_apps(config, engine, memory, pages), lm, memory, folder, tokens)
    with TestClient(made.apps.public):  # its start and its end
        yield made


def fact(n: int) -> dict[str, str]:
    """A fact of its own for each number, as the same twice would be a conflict."""
    return {"prompt": f"The moon of Planet{n} is", "target_new": f"Moon{n}", "subject": f"Planet{n}"}


def every_kind(file: KeyFile) -> dict[str, str]:
    """A key of each scope, those that are over, and one that reaches another namespace than the server's."""
    tokens = {name: file.create(name, scope)[1] for name, scope in SCOPES.items()}
    tokens["elsewhere"] = file.create("elsewhere", Scope.admin, ("north",))[1]
    tokens["expired"] = file.create("expired", Scope.admin, None, timedelta(microseconds=1))[1]
    gone, tokens["revoked"] = file.create("revoked", Scope.admin)
    file.revoke(gone.id)
    tokens["wrong"] = tokens["admin"][:-4] + ("aaaa" if tokens["admin"][-4:] != "aaaa" else "bbbb")
    return tokens
