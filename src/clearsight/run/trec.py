"""TREC run and relevance files, which every evaluation tool of the field reads.

Ids may hold anything: what would break a column is escaped, and escaped reversibly.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from clearsight.errors import DataError
from clearsight.types import Ranking, Relevance

# White space would end a column early; what cannot be encoded, or starts an escape, is escaped with it.
_UNSAFE = re.compile(r"[\s%\x00-\x1f\x7f\ud800-\udfff]")


def escape_id(name: str) -> str:
    """An id without white space: it, "%", control characters and lone surrogates become %XX (UTF-8).

    The empty id is written "%". `unescape_id` turns it back.
    """
    escaped = _UNSAFE.sub(lambda m: "".join(f"%{b:02X}" for b in m[0].encode("utf-8", "surrogatepass")), name)
    return escaped or "%"


def unescape_id(column: str) -> str:
    return "" if column == "%" else unquote(column, errors="surrogatepass")


def ranking_lines(ranking: Ranking, tag: str = "clearsight") -> Iterator[str]:
    """ "query Q0 candidate rank score tag"; scores keep every bit of their float32."""
    for query, rows_K, scores_K in zip(ranking.query_ids, ranking.rows_QK, ranking.scores_QK, strict=True):
        escaped = escape_id(query)
        for rank, (row, value) in enumerate(zip(rows_K.tolist(), scores_K.tolist(), strict=True), start=1):
            if row >= 0:
                yield f"{escaped} Q0 {escape_id(ranking.candidate_ids[row])} {rank} {value:.9g} {tag}\n"


def qrels_lines(relevance: Relevance) -> Iterator[str]:
    """ "query 0 candidate grade"; whole grades are written as integers, which trec_eval asks for."""
    for query, grades in relevance.items():
        for candidate, grade in grades.items():
            shown = str(int(grade)) if grade == int(grade) else repr(grade)
            yield f"{escape_id(query)} 0 {escape_id(candidate)} {shown}\n"


def read_trec(path: Path) -> dict[str, dict[str, float]]:
    """query id -> candidate id -> score (run file, best first) or grade (relevance file).

    Raises:
        DataError: the file is missing, or a line has neither six nor four columns.
    """
    if not path.is_file():
        raise DataError("There is no such TREC file.", where=str(path), do="Look at the manifest's files.")
    table: dict[str, dict[str, float]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        columns = line.split()
        if not columns:
            continue
        try:
            if len(columns) not in (4, 6):
                raise ValueError(f"{len(columns)} columns")
            value = float(columns[4 if len(columns) == 6 else 3])
        except ValueError as fault:
            raise DataError(
                f"A line is neither of a TREC run file nor of a relevance file ({fault}).",
                where=f"{path}:{number}",
                do="Write 'query Q0 candidate rank score tag' or 'query 0 candidate grade'.",
            ) from None
        table.setdefault(unescape_id(columns[0]), {})[unescape_id(columns[2])] = value
    return table
