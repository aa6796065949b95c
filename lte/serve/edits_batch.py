"""/v1/edits/batch and /v1/edits/export: edits as lines of JSON, in and out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import ValidationError

from lte.memory import Author, Record
from lte.memory.record import State, record_row
from lte.memory.writer import OnConflict
from lte.serve.config import Namespace
from lte.serve.edits_common import PREFIX, Desk, author, choice, point, record_of, shown
from lte.serve.edits_shown import Json
from lte.serve.edits_wire import Mode, Row, Why
from lte.serve.errors import ServeError, bad_request, from_validation

LINES = "application/jsonl"
CHUNK = 100  # lines sent at once


def batch_routes(desk: Desk) -> APIRouter:
    """The two routes."""
    router = APIRouter(prefix=PREFIX, tags=["edits"])

    @router.post("/batch", openapi_extra={"requestBody": {"content": {LINES: {"schema": {"type": "string"}}}}})
    async def batch(
        request: Request,
        response: Response,
        mode: Mode = "all",
        namespace: Namespace | None = None,
        on_conflict: OnConflict | None = None,
        reason: str = "",
        ticket: str = "",
        source: str = "",
    ) -> Json:
        """Write edits, one JSON object a line as /export gives them, under new ids.

        mode  all: all of them or none; the first line that will not do is the answer. each: what becomes of every line
        """
        by, clash = author(request, Why(reason=reason, ticket=ticket, source=source)), choice(None, on_conflict)
        lines = _lines(await request.body())
        if not lines:
            raise bad_request("the body: no lines; send one JSON object a line", None)
        if len(lines) > desk.limits.batch:
            text = f"the body: {len(lines)} lines; at most {desk.limits.batch} at once: split them"
            raise ServeError(text, 413, None, "too_many_edits")
        if namespace is not None:
            desk.namespace(request, namespace)

        def read(n: int, line: str) -> Record:
            record = _record(request, desk, line, namespace, f"line {n}")
            desk.fit([record])
            return record

        results: list[Json] = []
        if mode == "all":
            records = [read(n, line) for n, line in lines]
            desk.fit(records)
            done = await desk.ops.create(records, by, clash)
            results = [{"line": n, "status": 201, "edit": shown(one, Response())} for (n, _), one in zip(lines, done)]
            response.status_code = 201
        else:
            for n, line in lines:
                results.append({"line": n, **await _single(desk, lambda n=n, line=line: read(n, line), by, clash)})
        written = sum(result["status"] == 201 for result in results)
        seq = await desk.store.read(lambda memory: memory.seq)
        return {
            "object": "edit.batch",
            "written": written,
            "failed": len(results) - written,
            "results": results,
            "seq": seq,
        }

    @router.get("/export", response_class=StreamingResponse)
    async def export(
        request: Request,
        namespace: Namespace | None = None,
        state: Annotated[list[State] | None, Query()] = None,
        as_of: str | None = None,
    ) -> StreamingResponse:
        """The edits that are not deleted, one JSON object a line, as /batch and `lte memory import` take them."""
        reach, at = desk.reach(request, namespace), point("as_of", as_of)
        seq, records = await desk.store.read(lambda memory: (memory.seq, memory.records(reach, at, state)))
        return StreamingResponse(_written(records), media_type=LINES, headers={"x-lte-memory-seq": str(seq)})

    return router


async def _single(desk: Desk, read: Any, by: Author, clash: OnConflict) -> Json:
    try:
        [done] = await desk.ops.create([read()], by, clash)
    except ServeError as error:
        if error.status >= 500:  # the memory itself: what was written so far is there, the rest would fail alike
            raise
        return {"status": error.status, **error.body}
    return {"status": 201, "edit": shown(done, Response())}


def _lines(body: bytes) -> list[tuple[int, str]]:
    """The lines that are not empty, numbered from 1."""
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise bad_request(
            f"the body: byte {error.start} is not UTF-8; send JSON lines", None, "invalid_json"
        ) from error
    return [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]


def _record(request: Request, desk: Desk, line: str, namespace: str | None, at: str) -> Record:
    try:
        said = json.loads(line)
        row = Row.model_validate(said)
    except ValidationError as error:
        told = from_validation(error.errors())
        raise bad_request(f"{at}: {told}", f"{at}.{told.param}" if told.param else at) from error
    except ValueError as error:
        raise bad_request(f"{at}: not JSON ({error})", at, "invalid_json") from error
    return record_of(row, desk.namespace(request, namespace or row.namespace), at)


def _written(records: Sequence[Record]) -> Iterator[str]:
    for start in range(0, len(records), CHUNK):
        rows = (record_row(record) | {"namespace": record.namespace} for record in records[start : start + CHUNK])
        yield "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
