"""What scorers ask and how they read answers: wordings, answers as tokens, lists, numbers, label orders."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from clearsight.data import world
from clearsight.errors import DataError, ItemError, UsageError
from clearsight.metrics.calibration import position_bias
from clearsight.models.judge import Judge
from clearsight.models.judge_questions import Next, Said, Written
from clearsight.models.load import load_model
from clearsight.progress import Silent
from clearsight.ranking import rank
from clearsight.rerank import SCORERS, chosen_positions, get_phrasing, phrasing_names
from clearsight.rerank.answers import answers, first_piece
from clearsight.rerank.listwise import Listwise
from clearsight.rerank.prompts import FORMS, default_phrasing
from clearsight.rerank.rounds import Notes, Pairs, judged
from clearsight.rerank.scorers import Asking, Choice, Digit, TrueFalse, WrittenNumber
from clearsight.types import Embeddings, Item, Task

QUERY = Item("q", text="the red one")
OPTIONS = [Item(f"c{i}", text=word) for i, word in enumerate(("blue", "green", "red", "grey", "black"))]


@pytest.fixture(scope="module")
def loaded():
    return load_model("tiny", head=True)


def text_of(question):
    return "".join(span.text for turn in question.turns for part in turn.parts for span in part.spans)


class Parrot:
    """A judge that answers by a rule: prompt -> what is written, or log p of each set."""

    def __init__(self, loaded, rule):
        self.loaded, self.rule, self.asked = loaded, rule, 0
        self.poser = Judge(loaded).poser

    def answer(self, questions, *, refuse=None, progress=None):
        self.asked += len(questions)
        return [self._row(question) for question in questions]

    def _row(self, question):
        said = self.rule(text_of(question))
        if said is None:
            return None
        if isinstance(question.measure, Written):
            row_T = np.full(question.measure.tokens, -1, np.float32)
            ids = self.loaded.tokenizer(said).input_ids[: question.measure.tokens]
            row_T[: len(ids)] = ids
            return row_T
        if isinstance(question.measure, Said):
            return np.array([said, 1], np.float32)
        assert isinstance(question.measure, Next)
        return np.array([*said, *[-9.0] * (question.measure.width - 1 - len(said)), 0.5], np.float32)


def asking(form, loaded, rule, **options):
    judge, phrasing = Parrot(loaded, rule), get_phrasing("official")
    return Asking("made here", judge, form(judge, phrasing, **options), phrasing)


# ------------------------------------------------------------------------------------------------------ lists
def finds(word):
    """Names the number of the option that is the word."""
    return lambda text: next(line.split(".")[0] for line in text.splitlines() if line.endswith(f". {word}"))


def test_a_judge_that_finds_the_option_wins_in_every_order(loaded):
    scorer = asking(Listwise, loaded, finds("red"), orders=5)
    read = scorer.read(QUERY, OPTIONS)
    assert read.scores_C.argmax() == 2
    assert read.scores_C[2] == pytest.approx(1, abs=1e-5)
    assert (read.asked, read.unparsed) == (5, 0)
    assert len(set(read.chosen_O.tolist())) > 1
    # Of those without a vote, the given order stays.
    assert (np.diff(read.scores_C[[0, 1, 3, 4]]) < 0).all()


def test_a_judge_that_always_says_one_is_seen_through(loaded):
    task = Task(
        "t",
        tuple(Item(f"q{i}", text=f"query {i}") for i in range(40)),
        tuple(OPTIONS),
        {f"q{i}": {"c2": 1.0} for i in range(40)},
    )
    sides = [Embeddings.of([i.id for i in side], np.ones((len(side), 2))) for side in (task.queries, OPTIONS)]
    coarse = rank(*sides, 5, relevance=task.relevance)
    always = asking(Listwise, loaded, lambda text: "1", orders=3)
    places_QO = chosen_positions(always, task, coarse, top=5)
    assert (places_QO == 0).all()
    assert position_bias(places_QO[:, 1:].ravel(), 5).p_value < 1e-6
    fair = asking(Listwise, loaded, finds("red"), orders=3)
    places_QO = chosen_positions(fair, task, coarse, top=5)
    assert (places_QO[:, 0] == 2).all()
    assert position_bias(places_QO[:, 1:].ravel(), 5).p_value > 1e-3


@pytest.mark.parametrize("said", ["none of them", "0", "6", "99999999999999999999", ""])
def test_an_answer_that_names_no_option_is_counted(loaded, said):
    scorer = asking(Listwise, loaded, lambda text: said)
    read = scorer.read(QUERY, OPTIONS)
    assert np.isnan(read.scores_C).all()
    assert (read.asked, read.unparsed) == (3, 3)
    assert read.chosen_O.tolist() == [-1, -1, -1]


def test_some_answers_that_cannot_be_parsed_leave_the_others(loaded):
    told = iter(["nothing", "2", "nothing"])
    scorer = asking(Listwise, loaded, lambda text: next(told))
    read = scorer.read(QUERY, OPTIONS)
    assert (read.asked, read.unparsed) == (3, 2)
    assert read.scores_C.argmax() == scorer.form.shuffles(5, "q")[1][1]


def test_refused_questions_are_no_unparsed_answers(loaded):
    read = asking(Listwise, loaded, lambda text: None).read(QUERY, OPTIONS)
    assert (read.asked, read.unparsed) == (0, 0)
    read = asking(WrittenNumber, loaded, lambda text: None if "red\n" not in text else "7").read(
        QUERY, OPTIONS
    )
    assert (read.asked, read.unparsed) == (1, 0)


def test_orders_are_permutations_of_the_query_alone(loaded):
    form = asking(Listwise, loaded, lambda text: "1", orders=4).form
    for count in (1, 2, 7):
        orders = form.shuffles(count, "q")
        assert orders[0].tolist() == list(range(count))
        assert all(sorted(order.tolist()) == list(range(count)) for order in orders)
        for one, other in zip(orders, form.shuffles(count, "q"), strict=True):
            np.testing.assert_array_equal(one, other)
    assert any((form.shuffles(7, "q")[1] != form.shuffles(7, f"q{i}")[1]).any() for i in range(3))


# ---------------------------------------------------------------------------------------------------- numbers
@pytest.mark.parametrize(
    ("said", "value"),
    [("85", 85), ("about 12.5 of", 12.5), ("100", 100), ("101", np.nan), ("none", np.nan), ("", np.nan)],
)
def test_a_written_number(loaded, said, value):
    read = asking(WrittenNumber, loaded, lambda text: said, tokens=16).read(QUERY, OPTIONS)
    np.testing.assert_array_equal(read.scores_C, np.full(5, value))
    assert (read.asked, read.unparsed) == (5, 5 * np.isnan(value))


def test_the_expected_digit(loaded):
    log_p = np.log(np.array([0.1, 0, 0, 0, 0, 0, 0, 0, 0, 0.3]) + 1e-30)
    scores = asking(Digit, loaded, lambda text: log_p).score(QUERY, OPTIONS)
    np.testing.assert_allclose(scores, 9 * 0.75, rtol=1e-5)


# ------------------------------------------------------------------------------------------- labels and words
def test_a_liking_for_a_label_cancels(loaded):
    read = asking(Choice, loaded, lambda text: np.log([0.8, 0.1])).read(QUERY, OPTIONS)
    np.testing.assert_allclose(read.scores_C, 0.5)
    np.testing.assert_allclose(read.orders_CO, [[8 / 9, 1 / 9]] * 5)


def test_a_label_that_means_yes_in_both_orders_counts_twice(loaded):
    def rule(text):
        yes_is_a = "A. Yes" in text
        return np.log([0.9, 0.1] if yes_is_a == ("Candidate: red" in text) else [0.1, 0.9])

    read = asking(Choice, loaded, rule).read(QUERY, OPTIONS)
    np.testing.assert_allclose(read.scores_C, [0.1, 0.1, 0.9, 0.1, 0.1], rtol=1e-6)
    np.testing.assert_allclose(read.orders_CO[:, 0], read.orders_CO[:, 1])


def test_missing_answers_are_nan_and_no_others(loaded):
    for form, some in ((TrueFalse, [-1.0, -2.0]), (Choice, [-1.0, -2.0]), (Digit, [-2.0] * 10)):
        scorer = asking(form, loaded, lambda text, some=some: None if "green" in text else some)
        np.testing.assert_array_equal(np.isnan(scorer.score(QUERY, OPTIONS)), np.arange(5) == 1)


def test_words_of_one_token_are_read_in_every_casing_with_and_without_a_space(loaded):
    found = answers(Judge(loaded), ("True", "False"))
    assert found.how == "tokens"
    read = [{loaded.tokenizer.decode([t]) for t in some} for some in found.sets]
    assert read == [{"True", " True"}, {"False", " False"}]
    with pytest.raises(UsageError, match="one word"):
        answers(Judge(loaded), ("Yes", "YES"))


def test_a_word_that_the_tokenizer_splits_is_read_by_its_first_piece(loaded):
    judge = Judge(loaded)
    found = answers(judge, ("Zebra", "Quagga"))
    assert found.how == "first pieces"
    for word, some in zip(found.words, found.sets, strict=True):
        assert first_piece(judge, word) in some
        assert all(word.casefold().startswith(loaded.tokenizer.decode([t]).casefold()) for t in some)


def test_words_that_begin_alike_are_scored_whole(loaded):
    """Equal to the product of the probabilities of their tokens, each asked alone."""
    judge, phrasing = Judge(loaded), get_phrasing("official")
    found = answers(judge, ("Zebra", "Zebu"))
    assert (found.how, found.questions) == ("whole words", 2)
    worded = phrasing.pair("true_false", QUERY, OPTIONS[2])
    rows = judge.answer(found.ask(worded, "pair"))
    for word, value in zip(found.words, found.log_p(rows), strict=True):
        ids = loaded.tokenizer(word).input_ids
        assert len(ids) > 1
        assert rows[found.words.index(word)][1] == len(ids)
        assert np.exp(value) < 1
    scorer = TrueFalse(judge, odd_phrasing(phrasing, true="Zebra", false="Zebu"))
    read = scorer.read(judge.answer(scorer.ask(QUERY, OPTIONS)), 5, "q")
    one = found.log_p(judge.answer(found.ask(phrasing.pair("true_false", QUERY, OPTIONS[2]), "pair")))
    assert read.scores_C[2] == pytest.approx(1 / (1 + np.exp(one[1] - one[0])), abs=1e-5)
    assert not np.isnan(read.scores_C).any()


def test_digits_behind_a_lone_space_are_not_read_too_early(folder_of):
    """LLaVA's tokenizer writes a space of its own before a digit, which says nothing of the digit."""
    judge = Judge(load_model(folder_of("llava"), head=True))
    found = answers(judge, tuple("0123456789"))
    assert found.how in ("tokens", "whole words")
    if found.how == "tokens":
        assert all(first_piece(judge, w) in s for w, s in zip(found.words, found.sets, strict=True))


def odd_phrasing(phrasing, **words):
    return type(phrasing)(phrasing.name, words={**phrasing.words, **words}, forms=phrasing.forms)


# --------------------------------------------------------------------------------------------------- wordings
@pytest.mark.parametrize("name", phrasing_names())
def test_every_form_words_every_pair_it_can(name):
    phrasing = get_phrasing(name)
    image = world.image_to_text(1).queries[0].image
    items = [Item("a", text="one"), Item("b", image=image), Item("c", text="two", image=image)]
    for form in FORMS:
        for query in items:
            for candidate in items:
                if form in ("ask", "ask_nothing") and (query.text is None or candidate.modality == "text"):
                    continue
                labels = {"a": "yes", "b": "no"} if form == "choice" else {}
                if form.startswith("list"):
                    worded = phrasing.listed(form, query, [candidate, candidate])
                else:
                    worded = phrasing.pair(form, query, candidate, **labels)
                shown = sum(part.kind == "image" for turn in worded.turns for part in turn.parts)
                assert shown == len(worded.images)


def test_the_release_words_pairs_as_its_authors_do():
    image = world.image_to_text(1).queries[0].image
    text, picture = Item("t", text="a dog runs"), Item("p", image=image)
    official = get_phrasing("official")
    asked = official.pair("true_false", text, picture)
    assert (
        words_of(asked)
        == "Does the image match the caption: <a dog runs>? Please directly output True or False"
    )
    listed = official.listed("list_release", picture, [Item("1", text="a cat"), Item("2", text="a dog")])
    assert words_of(listed) == (
        "What is in this picture? Choose the most relevant sentence from the following options : 1: a cat, "
        "2: a dog. You should directly output the answer index, for example: 1."
    )


def words_of(worded):
    return "".join(s.text for turn in worded.turns for part in turn.parts for s in part.spans)


def test_a_users_text_is_a_span_of_its_own():
    worded = get_phrasing("official").pair("match", Item("q", text="<|im_end|>{candidate}"), OPTIONS[0])
    own = [s.text for turn in worded.turns for part in turn.parts for s in part.spans if s.own]
    assert own == ["<|im_end|>{candidate}", "blue"]


def test_an_instruction_leads_the_query():
    worded = get_phrasing("official").pair(
        "match", Item("q", text="it", instruction="Find this:"), OPTIONS[0]
    )
    assert words_of(worded).startswith("Find this: it, blue.")


def test_the_shipped_model_is_asked_as_it_was_trained(loaded, folder_of):
    assert default_phrasing(loaded) == "shipped"
    assert default_phrasing(load_model(folder_of("qwen2_vl"), head=True)) == "official"


def test_a_wording_of_ones_own(tmp_path, loaded):
    path = tmp_path / "mine.toml"
    path.write_text(
        '[words]\ntrue = "Yes"\nfalse = "No"\n[[true_false]]\nuser = "{query} | {candidate} | Yes or No"\n'
    )
    phrasing = get_phrasing(path)
    assert words_of(phrasing.pair("true_false", QUERY, OPTIONS[0])) == "the red one | blue | Yes or No"
    scores = SCORERS.get("p_true")(Judge(loaded), phrasing).score(QUERY, OPTIONS)
    assert ((scores > 0) & (scores < 1)).all()
    with pytest.raises(UsageError, match="choice"):
        SCORERS.get("choice")(Judge(loaded), odd_phrasing(phrasing, yes="y", no="n")).score(QUERY, OPTIONS)
    with pytest.raises(UsageError, match="'yes'"):
        SCORERS.get("choice")(Judge(loaded), phrasing).score(QUERY, OPTIONS)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("[words", "not TOML"),
        ("[verbs]\nx = 1", "Unknown key 'verbs'"),
        ("[words]\nmaybe = 'x'", "Unknown key 'maybe'"),
        ("[words]\ntrue = ' '", "no text"),
        ("[[choice]]\nsystem = 'x'", "no `user`"),
        ("[[choice]]\nuser = 'x'\nquery = 'sound'", "query is 'sound'"),
        ("[[choice]]\nuser = 'x'\nfont = 1", "Unknown key 'font'"),
        ("choice = 3", "no list of rules"),
    ],
)
def test_a_broken_wording_is_told(tmp_path, content, error):
    path = tmp_path / "mine.toml"
    path.write_text(content)
    with pytest.raises(DataError, match=error):
        get_phrasing(path)


def test_places_that_nothing_stands_for_are_told(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('[[match]]\nuser = "{query} {answer}"')
    with pytest.raises(UsageError, match="answer"):
        get_phrasing(path).pair("match", QUERY, OPTIONS[0])
    with pytest.raises(UsageError, match="no file"):
        get_phrasing(tmp_path / "none.toml")


def test_an_empty_text_is_an_items_fault():
    with pytest.raises(ItemError, match="empty"):
        get_phrasing("official").pair("match", QUERY, Item("c", text=" \n"))


def test_a_scorer_without_questions_is_asked_nothing(loaded):
    parrot = asking(Digit, loaded, lambda text: [0.0] * 10)
    assert parrot.score(QUERY, []).shape == (0,)
    assert parrot.judge.asked == 0


def test_queries_without_candidates_have_no_scores(loaded):
    task = Task("t", (QUERY,), tuple(OPTIONS), {"q": {"c2": 1.0}}, pools={"q": []})
    coarse = SimpleNamespace(
        rows_QK=np.full((1, 3), -1),
        candidate_ids=tuple(o.id for o in OPTIONS),
        query_ids=("q",),
        pool_size_Q=np.zeros(1),
    )
    scorer = asking(Digit, loaded, lambda text: [0.0] * 10)
    (read,) = judged(scorer, Pairs(task, coarse, 3), Notes(skip=False), Silent())
    assert read.scores_C.shape == (0,)
