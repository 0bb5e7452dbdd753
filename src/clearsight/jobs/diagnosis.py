"""From what was measured to what is read: findings in words, tables as parquet and JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clearsight.concepts.findings import Finding
    from clearsight.jobs.examine import Examined
    from clearsight.run import Run


def findings_of(examined: Sequence[Examined]) -> tuple[Finding, ...]:
    """The paper's three claims for every generative model, beside the first contrastive one."""
    from clearsight.concepts import overlap
    from clearsight.concepts.findings import bridging_concentrates, text_dominates

    def figures(one: Examined | None) -> Any:
        return None if one is None or not one.profile.bridge else overlap(one.profile)

    contrastive = next((one for one in examined if one.subject.encoder.loaded.kind == "contrastive"), None)
    found: list[Finding] = []
    for one in examined:
        if one is contrastive:
            continue
        found += [text_dominates(one.profile), bridging_concentrates(figures(one), figures(contrastive))]
        found += one.removal.findings() if one.removal is not None else ()
    return tuple(found) or (text_dominates(examined[0].profile),)


def write_tables(run: Run, name: str, one: Examined) -> None:
    """One model's numbers: concepts and sweeps as parquet, the rest as JSON."""
    _write_parquet(run, f"tables/{name}-concepts.parquet", _concept_columns(one))
    for what, table in (("removal", one.removal), ("masking", one.masking)):
        if table is not None:
            records = table.records()
            columns = {key: [record.get(key) for record in records] for key in records[0]}
            _write_parquet(run, f"tables/{name}-{what}.parquet", columns)
    run.write_json(
        f"tables/{name}.json",
        {
            "autoencoder": one.sae_line,
            "notes": one.notes,
            "reconstruction": {split: found.figures() for split, found in one.reconstruction.items()},
            "retrieval_recovered": {
                measure: {"ratio": found.ratio, "low": found.low, "high": found.high}
                for measure, found in one.recovered.items()
            },
            "code_of_mean_against_mean_of_codes": one.disagreement and one.disagreement.summary(),
            "concepts_without_modality_score": one.profile.unscored,
            "overlap": [vars(row) for row in overlaps(one)],
            "attention": one.attention and vars_of(one.attention),
            "geometry": {outcome.recipe: outcome.geometry for outcome in one.repaired},
        },
    )


def vars_of(value: Any) -> dict[str, Any]:
    """Fields of a frozen record with slots."""
    from dataclasses import fields

    return {field.name: getattr(value, field.name) for field in fields(value)}


def _write_parquet(run: Run, name: str, columns: Mapping[str, Any]) -> None:
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    file = io.BytesIO()
    pq.write_table(pa.table(dict(columns)), file)
    run.write_bytes(name, file.getvalue())


def _concept_columns(one: Examined) -> dict[str, Any]:
    import pyarrow as pa

    names = pa.array([name or None for name in one.names], pa.string())
    columns = one.profile.columns() | {"dead_on_tokens": one.dead_C, "name": names}
    if one.monosemanticity_C is not None:
        columns["monosemanticity"] = one.monosemanticity_C
    return columns


def overlaps(one: Examined) -> Sequence[Any]:
    """Rows of `overlap_table`; none where there is no bridge."""
    from clearsight.concepts import overlap_table

    return overlap_table(one.profile) if one.profile.bridge else ()
