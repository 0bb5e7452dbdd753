"""`clearsight export --scorer`: a reranker as a folder for sentence-transformers."""

from __future__ import annotations

from clearsight.errors import UsageError
from clearsight.jobs.export import ExportConfig, ExportResult, told
from clearsight.jobs.ui import Ui


def export_reranker(config: ExportConfig, scorer: str, ui: Ui) -> ExportResult:
    """A CrossEncoder folder.

    Raises:
        UsageError: no model, flags of a retriever, a scorer that no stock CrossEncoder can compute.
        ModelError: as the model says.
    """
    from clearsight.formats.cross_encoder import PairJudge, plan_reranker, reranker_facts
    from clearsight.formats.model_card import reranker_card
    from clearsight.formats.sentence_transformers_folder import write_export
    from clearsight.rerank import Reranker

    retrievers = ("pooling", "repair", "run", "recipe", "task", "queries", "candidates")
    given = [name for name in retrievers if getattr(config, name) is not None]
    if given or config.remote_code:
        flag = given[0] if given else "remote-code"
        raise UsageError(
            f"A reranker has no {flag}.", where=f"--{flag}", do="Leave it out, or leave --scorer out."
        )
    if config.model is None:
        raise UsageError("Give a model.", do=f"`clearsight export MODEL --scorer {scorer} --out FOLDER`.")
    reranker = Reranker.load(
        config.model,
        scorer=scorer,
        prompt=config.prompt,
        device="cpu",
        trust_remote_code=config.trust_remote_code,
    )
    judge = PairJudge(reranker)
    plan = plan_reranker(judge, dtype=config.dtype)
    write_export(
        config.out,
        judge,
        plan,
        facts=reranker_facts(judge, plan),
        card=reranker_card(judge, plan),
        overwrite=config.overwrite,
    )
    return told(config, plan, config.model, ui)
