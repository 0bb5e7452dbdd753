"""The search page in a headless Chromium, before a small server of the same shapes: questions and answers.

Needs Chromium and the Python package playwright; runs by the marker `browser` alone, and without a network.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
from search_pages import CARDS, Opener, elsewhere, give, opened, picture, server, until
from search_server import SearchServer

__all__ = ["elsewhere", "opened", "server"]  # fixtures
pytestmark = pytest.mark.browser


def first(page: Any) -> str:
    page.wait_for_selector(CARDS)
    return str(page.locator(CARDS).first.get_attribute("data-id"))


def ids(server: SearchServer, question: dict[str, Any], space: str = "repaired") -> list[str]:
    return [hit["id"] for hit in server.world.search({"top": 60} | question, space)["hits"]]


def searched(page: Any, words: str) -> None:
    page.fill("#words", words)
    page.keyboard.press("Enter")
    page.wait_for_selector(f"h1:has-text('{words}')")


def test_words_find_items_and_stand_in_the_address(opened: Opener, server: SearchServer) -> None:
    page = opened(ready="h2:has-text('Some of the collection')")
    assert "2,500 items" in page.inner_text("#collection")
    searched(page, "a red ring")
    assert page.url.endswith("?q=a+red+ring")
    assert [a.get_attribute("data-id") for a in page.locator(CARDS).all()[:10]] == ids(
        server, {"text": "a red ring"}
    )[:10]
    assert "1" in page.locator(CARDS).first.inner_text()
    assert "0.620" in page.locator(CARDS).first.inner_text()
    assert page.title() == "“a red ring” – Clearsight"
    until(page, "document.querySelector('#voice').textContent.startsWith('60 results')")
    assert server.asked[-1] == {"space": "repaired", "text": "a red ring", "top": 60}


@pytest.mark.parametrize("how", ["drop", "paste", "choose"])
def test_a_picture_is_searched_with_alone_and_with_words(
    opened: Opener, server: SearchServer, how: str
) -> None:
    page = opened(ready=CARDS)
    if how == "choose":
        page.set_input_files(
            "#file", {"name": "mine.png", "mimeType": "image/png", "buffer": picture("green")}
        )
    else:
        give(page, picture("green"), how)
    page.wait_for_selector("h1:has-text('Like your picture')")
    assert server.asked[-1]["image"].startswith("data:image/png;base64,")
    assert "text" not in server.asked[-1]
    assert page.locator("#chip img").get_attribute("src").startswith("blob:")
    assert page.locator("#drop").is_hidden()
    searched(page, "but blue")
    assert set(server.asked[-1]) == {"image", "text", "space", "top"}
    page.reload()  # the picture is still known on this device
    page.wait_for_selector("h1:has-text('“but blue” and a picture')")
    page.click("[aria-label='Search without the picture']")
    until(page, "!document.querySelector('h1').textContent.includes('picture')")
    assert "image" not in server.asked[-1]


def test_what_is_no_picture_is_refused_and_one_too_large_is_made_smaller(
    opened: Opener, server: SearchServer
) -> None:
    page = opened(ready=CARDS)
    give(page, b"words", "drop", name="notes.txt", kind="text/plain")
    assert "notes.txt is no picture" in page.inner_text(".warned")
    assert not server.asked
    server.info["limits"] = {"body_bytes": 1 << 20, "pixels": 1000}
    page = opened(ready=CARDS)
    give(page, picture(edge=64), "drop")
    page.wait_for_selector(".warned:has-text('made smaller')")
    page.wait_for_selector("h1:has-text('Like your picture')")
    assert server.asked[-1]["image"].startswith("data:image/jpeg;base64,")


def test_a_picture_of_another_device_is_asked_for_again(opened: Opener) -> None:
    page = opened("?image=0123456789abcdef", ready=".notice")
    assert "not on this device" in page.inner_text(".notice")


def test_back_goes_through_questions_items_and_places(opened: Opener) -> None:
    page = opened(ready=CARDS)
    searched(page, "a red ring")
    page.evaluate("scrollTo(0, 900)")
    page.wait_for_timeout(250)
    page.locator(CARDS).nth(20).click()
    page.wait_for_selector("dialog[open] .alike a")
    page.locator(".alike a").first.click()
    until(page, "history.state.depth === 2")
    page.keyboard.press("Escape")  # closes what was opened, however far it went
    page.wait_for_selector("dialog", state="hidden")
    assert page.url.endswith("?q=a+red+ring")
    assert abs(page.evaluate("scrollY") - 900) < 200
    page.wait_for_timeout(250)
    page.reload()
    until(page, "scrollY > 600")
    searched(page, "a blue star")
    assert page.evaluate("scrollY") == 0
    page.go_back()
    page.wait_for_selector("h1:has-text('a red ring')")
    assert page.input_value("#words") == "a red ring"
    page.go_back()
    page.wait_for_selector("h1:has-text('What are you looking for?')")
    page.go_forward()
    page.wait_for_selector("h1:has-text('a red ring')")


def test_the_whole_state_is_read_from_an_address(opened: Opener, server: SearchServer) -> None:
    page = opened(
        "?q=ring&where=year+%3E+2000&show=raw&rerank=1&explain=1&item=photos%2F000010.jpg",
        ready="dialog[open] .facts",
    )
    assert "photos/000010.jpg" in page.inner_text(".facts")
    [asked] = [one for one in server.asked if "like" not in one]
    assert asked == {
        "space": "raw",
        "text": "ring",
        "where": "year > 2000",
        "rerank": True,
        "explain": True,
        "top": 60,
    }
    page.keyboard.press("Escape")
    assert page.locator("#rerank input").is_checked()
    assert page.locator("#spaces input[value=raw]").is_checked()
    assert page.input_value("#where") == "year > 2000"
    card = page.locator(CARDS).first.inner_text()
    assert re.search(r"4\.\d\d · 0\.\d{3}", card)
    assert "rings, concept" in card
    assert "0.41" in card


def test_a_filter_names_the_fields_and_its_faults_stand_beside_it(
    opened: Opener, server: SearchServer
) -> None:
    page = opened("?q=ring", ready=CARDS)
    page.click("#narrow")
    assert page.locator("#where").evaluate("e => e === document.activeElement")
    assert page.locator("#fields button").all_inner_texts() == [
        "year number",
        "place string",
        "shared boolean",
        "modality string",
        "source string",
        "text string",
        "id string",
    ]
    page.click("#fields button >> nth=0")
    page.keyboard.type(">> 2020")
    page.keyboard.press("Enter")
    page.wait_for_selector("#where-fault:visible")
    assert "The filter does not parse. At character 6" in page.inner_text("#where-fault")
    assert page.get_attribute("#where", "aria-invalid") == "true"
    assert "does not fit" in page.inner_text(".notice")
    page.fill("#where", "year > 2010")
    page.press("#where", "Enter")
    page.wait_for_selector(CARDS)
    assert page.locator("#where-fault").is_hidden()
    assert server.asked[-1]["where"] == "year > 2010"
    page.fill("#where", "year > 3000")
    page.press("#where", "Enter")
    page.wait_for_selector(".notice:has-text('Nothing fits this filter')")
    page.click("text=Search without the filter")
    page.wait_for_selector(CARDS)
    assert page.url.endswith("?q=ring")
    assert page.input_value("#where") == ""


def test_a_kind_is_chosen_beside_the_filter(opened: Opener, server: SearchServer) -> None:
    page = opened("?q=ring", ready=CARDS)
    page.select_option("#kinds", "text")
    until(page, "!document.querySelector('#view-search img')")
    assert server.asked[-1]["where"] == "modality = 'text'"
    assert page.locator("#filter").is_hidden()
    page.click("#narrow")
    page.keyboard.type("year > 2010")
    page.keyboard.press("Enter")
    page.wait_for_selector("#narrow.set")
    until(page, "!document.querySelector('[aria-busy]')")
    assert server.asked[-1]["where"] == "modality = 'text' and (year > 2010)"
    page.fill("#where", "year > ")
    page.keyboard.press("Enter")
    page.wait_for_selector("#where-fault:has-text('At character 6: >.')")
    page.reload()
    page.wait_for_selector(".notice")
    assert page.input_value("#kinds") == "text"
    assert page.input_value("#where") == "year >"
    page.go_back()
    page.wait_for_selector(CARDS)
    page.select_option("#kinds", "")
    page.wait_for_selector("#view-search img")
    assert server.asked[-1]["where"] == "year > 2010"


def test_switches_ask_for_what_they_say(opened: Opener, server: SearchServer) -> None:
    page = opened("?q=ring", ready=CARDS)
    page.click("#rerank")
    page.wait_for_selector(f"{CARDS}:has-text('4.50')")
    page.click("#explain")
    page.wait_for_selector(f"{CARDS}:has-text('0.41')")
    assert server.asked[-1]["explain"]
    assert server.asked[-1]["rerank"]
    page.locator(CARDS).first.click()
    assert "Concepts that made the match" in page.inner_text("dialog")
    assert "rings, concept" in page.inner_text(".whys li >> nth=0")


def test_both_spaces_stand_side_by_side_with_what_moved(opened: Opener, server: SearchServer) -> None:
    page = opened("?q=ring", ready=CARDS)
    page.click("#spaces label:has-text('Side by side')")
    page.wait_for_selector(".columns")
    until(page, "document.querySelectorAll('.columns .grid:not(:empty)').length === 2")
    after, before = (ids(server, {"text": "ring"}, space) for space in ("repaired", "raw"))
    columns = page.locator(".columns section").all()
    for column, here, there, word in ((columns[0], after, before, "was"), (columns[1], before, after, "now")):
        cards = column.locator("li > a").all()[:12]
        assert [card.get_attribute("data-id") for card in cards] == here[:12]
        for place, card in enumerate(cards):
            said = card.locator(".move").inner_text()
            other = there.index(here[place]) if here[place] in there else None
            if other == place:
                assert said == "= same"
            elif other is None:
                assert said.endswith(f"{word} 60+")
            else:
                assert said.endswith(f"{word} {other + 1}")
                assert (said[0] == "↑") == ((other > place) if word == "was" else (other < place))
    fresh = len(set(after[:10]) - set(before[:10]))
    assert page.inner_text(".moved").startswith(f"{fresh} answer" if fresh else "The first 10 answers")
    shared = next(one for one in after[:6] if one in before[:6])
    columns[0].locator(f"[data-id='{shared}']").hover()
    assert columns[1].locator(".twin").get_attribute("data-id") == shared


def test_ten_thousand_results_scroll_without_ten_thousand_pictures(elsewhere: Any) -> None:
    page = elsewhere(10_500, "?q=ring", ready=CARDS)
    most = 0
    for _ in range(300):
        page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
        page.wait_for_timeout(60)
        most = max(most, page.evaluate("document.querySelectorAll('.grid > li').length"))
        if "The first 10,000 are shown" in page.inner_text(".more"):
            break
    assert "The first 10,000 are shown" in page.inner_text(".more")
    page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    page.wait_for_selector("li[aria-posinset='10000']")
    assert most < 150
    assert page.locator(".grid a[tabindex='0']").count() == 1
    for share in (0.7, 0.31, 0.05):
        page.evaluate(f"scrollTo(0, {share} * document.documentElement.scrollHeight)")
        until(
            page,
            "[...document.querySelectorAll('.grid > li')].filter(e => { const b = e.getBoundingClientRect();"
            " return b.bottom > 0 && b.top < innerHeight; }).length >= 18",
        )
    page.locator(CARDS).nth(10).focus()
    page.keyboard.press("End")
    assert page.evaluate("document.activeElement.parentElement.getAttribute('aria-posinset')") == "10000"


def test_a_broken_picture_gets_a_placeholder(elsewhere: Any) -> None:
    page = elsewhere(14, ready=CARDS)
    page.wait_for_selector(".shot.missing")
    assert page.locator(".shot.missing").count() == 1
    assert "No picture" in page.inner_text(f"{CARDS}[data-id$='13.jpg'], {CARDS}[data-id$='/13']")


def test_what_items_say_is_never_markup(opened: Opener, server: SearchServer) -> None:
    hostile = '<img src=x onerror="document.title = 1"><script>document.title = 2</script>'
    hit = server.world.hit(1) | {
        "text": hostile,
        "metadata": {hostile: hostile},
        "id": f"notes/{hostile}",
        "source": hostile,
    }
    answer = {
        "space": "repaired",
        "hits": [hit],
        "rows": 1,
        "version": 1,
        "repair": hostile,
        "seconds": 0.1,
        "notes": [hostile],
    }
    server.faults["search"] = (200, answer, {})
    server.info["fields"] = [{"name": hostile, "type": hostile}]
    page = opened("?q=ring&where=a", ready=CARDS)
    page.locator(CARDS).first.click()
    page.wait_for_selector(".facts")
    assert hostile in page.inner_text(".facts")
    assert page.title() == "“ring” – Clearsight"
    assert page.locator("img[src='x']").count() == 0


def test_items_alike_become_a_search_of_their_own(opened: Opener, server: SearchServer) -> None:
    page = opened("?q=ring&item=notes%2F1", ready="dialog[open] .alike a")
    page.click("dialog >> text=Find items alike")
    page.wait_for_selector("h1:has-text('Like “a green star')")
    assert server.asked[-1] == {"space": "repaired", "like": "notes/1", "top": 60}
    assert page.url.endswith("?like=notes%2F1")
    searched(page, "a new question")
    assert "like" not in server.asked[-1]


def test_an_item_of_either_column_knows_its_list(opened: Opener, server: SearchServer) -> None:
    server.info["limits"] = {"top": 60}
    page = opened("?q=ring&show=both", ready=".columns .card")
    before = ids(server, {"text": "ring"}, "raw")
    lost = next(one for one in before if one not in ids(server, {"text": "ring"}))
    page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    page.click(f"section:last-child .grid [data-id='{lost}']")
    page.wait_for_selector("dialog[open] .facts")
    assert page.inner_text(".bar p") == f"Place {before.index(lost) + 1} of {len(before)}"


def test_words_that_are_being_typed_are_not_lost(opened: Opener) -> None:
    page = opened("?q=ring", ready=CARDS)
    page.fill("#words", "ring and star")
    page.locator(CARDS).first.click()
    page.wait_for_selector("dialog[open]")
    page.keyboard.press("Escape")
    assert page.input_value("#words") == "ring and star"
    page.click("#spaces label:has-text('Before repair')")  # a choice asks what is written
    page.wait_for_selector("h1:has-text('ring and star')")
    assert page.url.endswith("?q=ring+and+star&show=raw")


def test_an_index_that_has_changed_is_told_anew(opened: Opener, server: SearchServer) -> None:
    page = opened(ready=CARDS)
    server.info |= {"rows": 2600, "version": 5}
    searched(page, "ring")
    assert "2,500 items" in page.inner_text("#collection")
    server.faults["search"] = (200, server.world.search({"text": "star"}, "repaired") | {"version": 6}, {})
    server.info |= {"version": 6}
    searched(page, "star")
    page.wait_for_selector("#collection:has-text('2,600 items')")


def test_faults_say_what_to_do(opened: Opener, server: SearchServer) -> None:
    server.faults["search"] = (
        500,
        {"what": "Something went wrong.", "where": None, "do": None, "id": "ab12"},
        {},
    )
    page = opened("?q=ring", ready=".notice")
    assert "Something went wrong." in page.inner_text(".notice")
    assert "ab12" in page.inner_text(".notice")
    del server.faults["search"]
    page.click("button:has-text('Try again')")
    page.wait_for_selector(CARDS)
    page.route("**/search", lambda route: route.abort())
    searched_words = page.locator("#words")
    searched_words.fill("another")
    searched_words.press("Enter")
    page.wait_for_selector(".notice:has-text('The server does not answer.')")
    assert "clearsight serve" in page.inner_text(".notice")
    page.unroute("**/search")
    page.click("button:has-text('Try again')")
    page.wait_for_selector(CARDS)


def test_a_server_that_loads_its_model_is_waited_for(opened: Opener, server: SearchServer) -> None:
    server.faults["info"] = (503, {"what": "The model is still being loaded."}, {"Retry-After": "1"})
    page = opened(ready=".notice")
    assert "still being loaded" in page.inner_text(".notice")
    server.faults.clear()
    page.wait_for_selector(CARDS)


def test_a_token_opens_the_page(elsewhere: Any) -> None:
    page = elsewhere(50, "?q=ring", server={"token": "open sesame"}, ready=".notice input[type=password]")
    page.fill(".notice input[type=password]", "wrong")
    page.keyboard.press("Enter")
    page.wait_for_selector(".notice .fault:has-text('not the token')")
    page.fill(".notice input[type=password]", "open sesame")
    page.keyboard.press("Enter")
    page.wait_for_selector(CARDS)
    assert "50 items" in page.inner_text("#collection")


def test_an_empty_index_and_one_without_a_repair(elsewhere: Any) -> None:
    page = elsewhere(0, ready=".notice")
    assert "clearsight index PHOTOS/" in page.inner_text(".notice")
    page = elsewhere(40, "?q=ring", server={"repair": ""}, ready=CARDS)
    assert page.locator("#spaces").is_hidden()
    assert "No repair is in force." in page.inner_text(".options")
    assert "no repair" in page.inner_text(".summary")


def test_without_javascript_a_sentence_says_so(opened: Opener) -> None:
    page = opened(java_script_enabled=False)
    assert "This page needs JavaScript" in page.inner_text("noscript")


def test_first_reads_the_list(opened: Opener, server: SearchServer) -> None:
    """The same question gives the same first answer, from the server or from what is kept."""
    page = opened("?q=ring", ready=CARDS)
    before = first(page)
    searched(page, "star")
    page.go_back()
    page.wait_for_selector("h1:has-text('ring')")
    asked = len(server.asked)
    assert first(page) == before
    assert len(server.asked) == asked
