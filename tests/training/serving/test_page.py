"""The page of the server, in a headless Chromium.

After `make demo`, this retakes the documents' pictures of the page:

    export PAGE_PICTURES=docs/pictures PAGE_MODEL=saved_models/demo
    make test-slow ARGS="-k pictures_of_the_page"

PAGE_TEXT replaces the sentence in them.
"""

import base64
import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import pytest

from keras_transformer.text.blank import BLANK_CHARACTERS
from tests.training.serving.page_stub import HEADS, MODEL, Stub, shouted, start_chromium

SECONDS = 20  # to wait for the page at most
HOSTILE = '<img src=x onerror="document.title=\'run\'"><script>document.title="run"</script>&lt;b'
ROOT = Path(__file__).parents[3]


class Page:
    """A user's actions on the page, and what the user sees."""

    def __init__(self, driver):
        self.driver = driver

    def open(self, stub, query="", *, width=1000, height=900, scheme="light"):
        self.driver.execute_cdp_cmd("Emulation.setFocusEmulationEnabled", {"enabled": True})
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        for log in ("browser", "performance"):
            self.driver.get_log(log)  # reading empties it
        self.driver.get(f"{stub if isinstance(stub, str) else stub.address}/{query}")

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def until(self, script, *arguments):
        """Waits until a JavaScript expression is true, and returns its value."""
        from selenium.webdriver.support.wait import WebDriverWait

        wait = WebDriverWait(self.driver, SECONDS, poll_frequency=0.02)
        return wait.until(lambda _: self.run(f"return {script}", *arguments), message=script)

    def text(self, selector):
        return self.run("return document.querySelector(arguments[0]).textContent", selector)

    def texts(self, selector):
        script = "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)"
        return self.run(script, selector)

    def paste(self, text):
        script = """
            const field = document.getElementById("source");
            field.value = arguments[0];
            field.dispatchEvent(new Event("input"));"""
        self.run(script, text)

    def press(self, *keys, held=None):
        """Sends keys to the focused element."""
        from selenium.webdriver.common.action_chains import ActionChains

        actions = ActionChains(self.driver)
        if held:
            actions.key_down(held)
        actions.send_keys(*keys)
        if held:
            actions.key_up(held)
        actions.perform()

    def click(self, selector):
        self.driver.find_element("css selector", selector).click()

    def translate(self, text, *, translation=None):
        """Pastes a text and waits for the whole answer."""
        self.paste(text)
        first = (translation or shouted(text.split("\n")[0])[0][0]).strip()
        self.until("document.getElementById('lines').textContent.includes(arguments[0])", first)
        self.until("document.querySelector('#target-tokens [aria-pressed=true]') !== null")

    def alarm(self):
        self.until("!document.getElementById('alarm').hidden")
        return self.text("#alarm-title"), self.text("#alarm-text")

    def weights(self):
        """The weights shown as the background of the source's words."""
        script = """return [...document.querySelectorAll('#source-tokens .token')]
            .map(e => Number(e.style.getPropertyValue('--weight')))"""
        return self.run(script)

    def complaints(self):
        """The browser's log: script errors and policy violations."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def asked_addresses(self):
        entries = [json.loads(entry["message"]) for entry in self.driver.get_log("performance")]
        sent = [entry["message"] for entry in entries]
        sent = [message for message in sent if message["method"] == "Network.requestWillBeSent"]
        return [message["params"]["request"]["url"] for message in sent]


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    driver = start_chromium(tmp_path_factory.mktemp("chromium"))
    yield driver
    driver.quit()


@pytest.fixture
def page(chromium):
    return Page(chromium)


@pytest.fixture(scope="module")
def module_stub():
    stub = Stub()
    yield stub
    stub.close()


@pytest.fixture
def stub(module_stub):
    module_stub.reset()
    return module_stub


def test_all_lines_are_translated_in_one_request_and_blank_lines_stay(page, stub):
    page.open(stub)
    page.until("document.getElementById('server-state').textContent.includes('version 3')")
    assert page.text("#server-state") == f"{MODEL}, version 3"
    page.translate("one two\n\n  \nthree")
    assert stub.predictions("n_best") == [{"text": ["one two", "three"]}]
    assert page.texts("#lines > *") == ["ONE TWO", "", "", "THREE"]
    page.click("#lines > :last-child")
    page.until("document.querySelector('#hypotheses-list .words').textContent === 'THREE'")
    page.until("document.querySelector('#source-tokens').textContent.startsWith('three')")
    assert stub.predictions("attention")[-1] == {"source": ["three"], "target": ["THREE"]}
    assert page.complaints() == []


def test_the_page_knows_the_blank_lines_of_the_export(page, stub):
    page.open(stub)
    page.until("document.documentElement.dataset.server === 'ready'")
    blanks = BLANK_CHARACTERS.replace("\n", "").replace("\r", "")  # which separate lines
    page.paste(blanks)
    assert page.run("return document.getElementById('translate').disabled")
    page.translate("\n".join([*blanks, "one", "\0", "\u200c"]), translation="ONE")
    assert stub.predictions("n_best") == [{"text": ["one", "\0", "\u200c"]}]


def test_typing_makes_one_request_after_a_pause(page, stub):
    page.open(stub)
    page.until("document.activeElement.id === 'source'")
    page.press("one two three")
    page.until("document.querySelector('#lines').textContent === 'ONE TWO THREE'")
    # A slow driver may pause between two keys, as a person does.
    asked = [text for inputs in stub.predictions("n_best") for text in inputs["text"]]
    assert asked[-1] == "one two three"
    assert len(asked) < 4


def test_a_long_text_is_sent_only_with_ctrl_and_enter(page, stub):
    from selenium.webdriver.common.keys import Keys

    page.open(stub)
    page.until("document.documentElement.dataset.server === 'ready'")
    long_text = "\n".join(["a few words and more"] * 100)
    page.paste(long_text)
    page.run("return new Promise(done => setTimeout(done, 1000))")  # twice the pause
    assert stub.predictions("n_best") == []
    assert "Press Translate to send a long text" in page.text("#source-note")
    page.press(Keys.ENTER)  # starts a new line
    assert page.text("#source-note").startswith("101 lines")
    page.press(Keys.ENTER, held=Keys.CONTROL)
    page.until("document.querySelectorAll('#lines > *').length === 101")
    assert [len(inputs["text"]) for inputs in stub.predictions("n_best")] == [100]


def test_an_older_answer_never_replaces_a_newer_one(page, stub):
    late = threading.Event()

    def slow_for_the_first(text):
        if text == "old":
            late.wait(SECONDS)
        return shouted(text)

    stub.n_best = slow_for_the_first
    page.open(stub)
    page.paste("old")
    page.until("document.getElementById('result').getAttribute('aria-busy') === 'true'")
    page.translate("new")
    late.set()
    page.run("return new Promise(done => setTimeout(done, 300))")
    assert page.texts("#lines > *") == ["NEW"]
    assert page.text("#hypotheses-list .words") == "NEW"
    assert page.run("return document.getElementById('alarm').hidden")
    page.paste("")
    page.until("document.querySelector('#lines .empty') !== null")
    assert page.run("return document.getElementById('hypotheses').hidden")


def test_an_answer_to_an_outdated_text_is_never_shown(page, stub):
    late = threading.Event()
    stub.n_best = lambda text: (text == "old" and late.wait(SECONDS), shouted(text))[1]
    page.open(stub)
    page.run("""
        window.seen = [];
        const lines = document.getElementById("lines");
        const watcher = new MutationObserver(() => seen.push(lines.textContent));
        watcher.observe(lines, { childList: true });
    """)
    page.paste("old")
    page.until("document.getElementById('result').getAttribute('aria-busy') === 'true'")
    page.paste("new")
    late.set()
    page.until("document.querySelector('#lines').textContent === 'NEW'")
    assert page.run("return window.seen") == ["NEW"]


def test_no_answer_to_a_cleared_text_appears_later(page, stub):
    late = threading.Event()
    stub.n_best = lambda text: (late.wait(SECONDS), shouted(text))[1]
    page.open(stub)
    page.paste("old")
    page.until("document.getElementById('result').getAttribute('aria-busy') === 'true'")
    page.click("#clear")
    late.set()
    page.run("return new Promise(done => setTimeout(done, 300))")
    assert page.run("return document.querySelector('#lines .empty') !== null")


def test_hypotheses_are_compared_with_the_best_and_another_can_be_chosen(page, stub):
    from selenium.webdriver.common.keys import Keys

    page.open(stub)
    page.translate("one two three")
    assert page.texts(".words") == ["ONE TWO THREE", "ONE TWO OTHER", "FIRST TWO THREE"]
    assert page.texts(".words mark") == ["OTHER", "FIRST"]
    assert page.texts(".score") == ["score \u22120.250", "score \u22121.000", "score \u22122.000"]
    assert page.texts(".gap") == ["best", "0.750 below the best", "1.750 below the best"]
    page.run("document.querySelector('.hypothesis input').focus()")
    page.press(Keys.ARROW_DOWN)
    page.until("document.querySelector('#lines').textContent === 'ONE TWO OTHER'")
    page.until("document.querySelector('#target-tokens').textContent.includes('OTHER')")
    targets = [inputs["target"] for inputs in stub.predictions("attention")]
    assert targets == [["ONE TWO THREE"], ["ONE TWO OTHER"]]


def test_bars_are_shorter_the_further_a_score_is_below_the_best(page, stub):
    page.open(stub)
    page.translate("one two three")
    lengths = """return [...document.querySelectorAll('.bar')].map(
        bar => parseFloat(getComputedStyle(bar, '::before').width) / bar.clientWidth)"""
    expected = [1, math.exp(-0.75), math.exp(-1.75)]
    assert page.run(lengths) == pytest.approx(expected, abs=0.01)


def test_scores_are_never_shown_as_a_share_that_reads_as_confidence(page, stub):
    stub.n_best = lambda text: (["A", "B", "C"], [-0.25, -0.2501, -0.5])
    page.open(stub)
    page.translate("one", translation="A")
    assert page.texts(".gap") == ["best", "level with the best", "0.250 below the best"]
    assert "%" not in page.text("#hypotheses")
    assert "does not say how likely" in page.text("#hypotheses .remark")


def test_a_screen_reader_says_the_words_the_score_and_the_gap(page, stub):
    page.open(stub)
    page.translate("one two three")
    inputs = page.driver.find_elements("css selector", ".hypothesis input")
    assert [" ".join(one.accessible_name.split()) for one in inputs] == [
        "1 ONE TWO THREE score \u22120.250 best",
        "2 ONE TWO OTHER score \u22121.000 0.750 below the best",
        "3 FIRST TWO THREE score \u22122.000 1.750 below the best",
    ]
    assert [one.aria_role for one in inputs] == ["radio"] * 3


def test_only_words_that_the_best_lacks_are_marked(page, stub):
    others = ["a b c d e", "a X c Y e", "b c d e", "a b c d e e"]
    stub.n_best = lambda text: (others, [-0.5, -0.6, -0.7, -0.8])
    page.open(stub)
    page.translate("one", translation=others[0])
    assert page.texts(".words") == others
    assert page.texts(".words mark") == ["X", "Y", "e"]


def test_hypotheses_that_only_fill_the_list_are_left_out(page, stub):
    stub.n_best = lambda text: (["ONE", "", ""], [-0.5, -1e9, -1e9])
    page.open(stub)
    page.translate("one", translation="ONE")
    assert page.texts(".words") == ["ONE"]


def test_hypotheses_that_repeat_a_text_are_left_out(page, stub):
    stub.n_best = lambda text: (["A", "B", "A", "C", "B"], [-0.5, -1.0, -1.5, -2.0, -3.0])
    page.open(stub)
    page.translate("one", translation="A")
    assert page.texts("#hypotheses-list .words") == ["A", "B", "C"]


def test_a_target_tokens_attention_is_shown_for_the_mean_and_for_each_head(page, stub):
    page.open(stub)
    page.translate("one two three")  # with the end four tokens: 0.7 for one, 0.1 for each other
    assert page.texts("#target-tokens button") == ["ONE", "TWO", "THREE", "end"]
    assert page.weights() == [0.3, 0.3, 0.3, 0.1]  # three heads, 0.7 at a token each
    page.run("document.querySelectorAll('#heads-list input')[2].click()")  # the second head
    page.run("document.querySelectorAll('#target-tokens button')[1].focus()")
    assert page.weights() == [0.1, 0.1, 0.7, 0.1]
    assert page.texts("#source-tokens small") == ["10", "10", "70", "10"]
    reading = re.sub("[\u2068\u2069\u202f]", "", page.text("#reading"))
    assert reading.startswith("“TWO” attends to “three” 70%, ")
    assert reading.endswith("(head 2).")
    assert len(page.texts("#heads-list label")) == 1 + HEADS


def test_pointing_at_a_cell_of_the_heat_map_tells_its_weight(page, stub):
    from selenium.webdriver.common.action_chains import ActionChains

    page.open(stub, height=1600)  # the driver measures from the middle of the visible part
    page.translate("one two three")
    page.run("document.querySelectorAll('#heads-list input')[1].click()")  # the first head
    cells = page.driver.find_element("id", "map-cells")
    side = cells.size["width"] / 4
    # From the middle to the cell of target token 1 and source token 2, then to 2 and 2.
    words = ["ONE", "TWO", "THREE"]
    for target, weight in ((1, "0.100"), (2, "0.700")):
        ActionChains(page.driver).move_to_element_with_offset(
            cells, int(side / 2), int((target - 1.5) * side)
        ).perform()
        shown = "document.getElementById('reading').textContent.includes(arguments[0])"
        page.until(shown, f"has the weight {weight} (head 1)")
        assert page.texts("#map-columns .near, #map-rows .near") == ["three", words[target]]
    painted = """
        const context = document.getElementById("map-canvas").getContext("2d");
        const at = (x, y) => context.getImageData(x, y, 1, 1).data.join();
        return [at(2, 2), at(1, 1), at(2, 1), at(1, 2)];"""
    dark, other_dark, light, other_light = page.run(painted)
    assert dark == other_dark != light == other_light


def test_sub_words_are_shown_as_people_read_them(page, stub):
    sources = ["\u2581", "bi", "cy", "cle", "\u2581<0x41>", "<0xE2>", ".", "\u2581the", "</s>", ""]
    stub.attention = lambda source, target: (sources, ["x", "</s>"], [[[0.1] * 10] * 2])
    page.open(stub)
    page.translate("one")
    read = "return [...document.querySelectorAll('#source-tokens .token')].map(e => "
    shown = page.run(read + "e.firstChild.textContent)")
    assert shown == ["␣", "bi", "cy", "cle", "<0x41>", "<0xE2>", ".", "the", "end"]
    begins = page.run(read + "e.classList.contains('first'))")
    assert begins == [False, True, False, False, True, False, False, True, True]
    labels = ["␣", "bi", "+cy", "+cle", "<0x41>", "<0xE2>", ".", "the", "end"]
    assert page.texts("#map-columns span") == labels


def test_the_keyboard_reaches_tokens_and_cells(page, stub):
    from selenium.webdriver.common.keys import Keys

    page.open(stub)
    page.translate("one two three")
    page.run("document.getElementById('source').focus()")
    stops = []
    stop = "const e = document.activeElement; return e.id || e.name || e.className || e.tagName"
    while "SUMMARY" not in stops:  # the last one
        page.press(Keys.TAB)
        stops.append(page.run(stop))
        ring = page.run("return getComputedStyle(document.activeElement).outlineStyle")
        assert ring != "none" or stops[-1] in ("hypothesis", "head")  # their labels have the ring
    # One stop for each group: within it the arrow keys move.
    groups = ["hypothesis", "token", "map-box", "head", "SUMMARY"]
    assert stops == ["translate", "copy", *groups]
    page.run("document.querySelector('#target-tokens [tabindex=\"0\"]').focus()")
    for key, token in ((Keys.ARROW_RIGHT, "TWO"), (Keys.END, "end"), (Keys.ARROW_LEFT, "THREE")):
        page.press(key)
        assert page.text("#target-tokens [aria-pressed=true]") == token
        assert page.run("return document.activeElement.textContent") == token
    page.press(Keys.TAB)
    page.press(Keys.ARROW_RIGHT, Keys.ARROW_DOWN)
    reading = re.sub("[\u2068\u2069]", "", page.text("#reading"))
    assert reading == "For end, “two” has the weight 0.300 (mean of 3 heads)."


def test_answers_enter_the_page_as_text_and_run_no_code(page, stub):
    stub.n_best = lambda text: ([HOSTILE, "<b>other</b>"], [-0.5, -0.75])
    tokens = [HOSTILE, "</s>"]
    stub.attention = lambda source, target: (tokens, tokens, [[[0.5, 0.5]] * 2] * 2)
    stub.state = [{"version": HOSTILE, "state": "AVAILABLE"}, {"version": 4, "state": "AVAILABLE"}]
    page.open(stub)
    page.translate(HOSTILE, translation=HOSTILE)
    page.run("document.getElementById('numbers').open = true")
    page.until("document.querySelector('#numbers td') !== null")
    assert page.text("#lines") == HOSTILE
    assert page.texts(".words") == [HOSTILE, "<b>other</b>"]
    assert page.texts("#numbers thead th") == ["", HOSTILE, "end"]
    assert HOSTILE in page.text("#announcer")
    stub.failure = (400, json.dumps({"error": HOSTILE}))
    page.paste("more")
    assert page.alarm()[1] == HOSTILE
    made = "return document.querySelectorAll('img, b, main script').length"
    assert page.run(made) == 0
    assert page.run("return document.title") != "run"


@pytest.mark.parametrize(
    ("status", "body", "title", "text"),
    [
        (400, '{"error": "INVALID_ARGUMENT: too long"}', "error (400)", "INVALID_ARGUMENT: too lo"),
        (502, "<h1>Bad gateway</h1>", "error (502)", "<h1>Bad gateway</h1>"),
        (200, '{"outputs": {"translations": [["A"], ["B"]], "scores": []}}', "Unexpected", "a row"),
        (200, "<h1>Hello</h1>", "Unexpected answer", "JSON"),
    ],
)
def test_an_error_is_shown_until_a_request_succeeds(page, stub, status, body, title, text):
    stub.failure = (status, body)
    page.open(stub)
    page.paste("one")
    said = page.alarm()
    assert title in said[0]
    assert text in said[1]
    stub.failure = None
    page.click("#retry")
    page.until("document.querySelector('#lines').textContent === 'ONE'")
    assert page.run("return document.getElementById('alarm').hidden")


def test_the_translation_stays_if_its_attention_is_refused(page, stub):
    stub.attention = lambda source, target: ([], [], [])
    page.open(stub)
    page.paste("one")
    page.until("document.getElementById('attention-note').textContent.includes('Unexpected')")
    assert page.text("#lines") == "ONE"
    assert page.run("return document.getElementById('attention-shown').hidden")
    assert page.run("return document.getElementById('alarm').hidden")


def test_the_page_recovers_when_its_server_comes_back(page, stub):
    other = Stub()
    port = other.server_port
    page.open(other)
    page.until("document.documentElement.dataset.server === 'ready'")
    other.close()
    page.paste("one")
    assert page.alarm()[0] == "The server can't be reached"
    assert page.run("return document.documentElement.dataset.server") == "away"
    other = Stub(port)
    try:
        page.translate("one two")
        page.until("document.documentElement.dataset.server === 'ready'")
    finally:
        other.close()


def test_a_model_that_is_not_ready_is_reported(page, stub):
    stub.state = [{"version": "3", "state": "LOADING"}]
    page.open(stub)
    assert page.alarm() == (f"The model {MODEL} is not ready", "version 3 is LOADING.")
    stub.state = [{"version": "3", "state": "END"}, {"version": "10", "state": "AVAILABLE"}]
    page.click("#retry")
    page.until("document.getElementById('server-state').textContent.includes('version 10')")


def test_another_server_is_asked_without_preflight_requests_if_it_allows_the_page(page, stub):
    other = Stub()
    try:
        query = f"?server={other.address}&model={MODEL}"
        page.open(stub, query)
        assert "--rest_api_enable_cors_support=true" in page.alarm()[1]
        other.cors = True
        page.open(stub, query)
        page.translate("one two")
        assert f"at 127.0.0.1:{other.server_port}" in page.text("#server-state")
        assert other.predictions("n_best") == [{"text": ["one two"]}]
        assert stub.predictions("n_best") == []
        # The stub would have refused an OPTIONS request, because it has no answer to one.
        assert page.complaints() == []
    finally:
        other.close()


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("?server=javascript:alert(1)&model=x", "Received: javascript:alert(1)"),
        ("?server=localhost:8501&model=x", "like http://localhost:8501"),
        ("?server=http://me:secret@127.0.0.1&model=x", "server must be an address"),
        ("?server=ftp://127.0.0.1/&model=x", "server must be an address"),
        ("?server=http://127.0.0.1:1&model=", "&model=NAME"),
    ],
)
def test_an_unusable_server_address_is_refused(page, stub, query, text):
    page.open(stub, query)
    assert text in page.alarm()[1]
    page.paste("one")
    page.run("return new Promise(done => setTimeout(done, 700))")
    assert [path for method, path, _ in stub.requests if method == "POST"] == []


def test_the_form_names_another_server(page, stub):
    page.open(stub)
    page.run("document.getElementById('server').open = true")
    page.run("document.getElementById('server-model').value = 'a/b & c'")
    page.click("#server-form button")
    page.until("location.search !== ''")
    page.until("!document.getElementById('alarm').hidden")
    assert ("GET", "/v1/models/a%2Fb%20%26%20c", None) in stub.requests


def test_no_request_goes_to_another_host_and_the_security_policy_holds(page, stub):
    page.open(stub)
    page.translate("one two three")
    page.run("document.getElementById('numbers').open = true")
    page.until("document.querySelectorAll('#numbers td').length === 16")
    addresses = page.asked_addresses()
    files = ["", "page.css", "page.js", "page.json", f"v1/models/{MODEL}:predict"]
    assert {f"{stub.address}/{file}" for file in files} <= set(addresses)
    allowed = (f"{stub.address}/", "data:image/svg+xml,")
    assert [address for address in addresses if not address.startswith(allowed)] == []
    assert page.complaints() == []


LONG_WORD = "Donaudampfschifffahrtsgesellschaftskapitän" * 5


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_window_never_scrolls_sideways(page, stub, scheme):
    stub.n_best = lambda text: ([text, text + " again"], [-0.5, -123.456])
    page.open(stub, width=360, height=640, scheme=scheme)
    wide = "return document.scrollingElement.scrollWidth - document.documentElement.clientWidth"
    assert page.run(wide) <= 0
    text = f"{LONG_WORD} {'many short words ' * 15}"
    page.translate(text, translation=LONG_WORD)
    page.run("document.getElementById('server').open = true")
    page.run("document.getElementById('numbers').open = true")
    page.until("document.querySelector('#numbers td') !== null")
    assert page.run(wide) <= 0
    for box in ("map-box", "numbers-box"):
        scrolls = "const e = arguments[0]; return e.scrollWidth > e.clientWidth"
        assert page.run(scrolls, page.driver.find_element("id", box)), box
    stub.failure = (400, json.dumps({"error": LONG_WORD}))
    page.paste("two")
    page.alarm()
    assert page.run(wide) <= 0


# The lowest contrast between text and its background, over all elements with text.
CONTRAST = """
    const channels = colour => {
      const canvas = new OffscreenCanvas(1, 1).getContext("2d");
      canvas.fillStyle = colour;
      canvas.fillRect(0, 0, 1, 1);
      return [...canvas.getImageData(0, 0, 1, 1).data];
    };
    const luminance = colour => {
      const [r, g, b] = channels(colour).slice(0, 3).map(value => value / 255)
        .map(value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
      return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = element => {
      if (!element) return "white";
      const colour = getComputedStyle(element).backgroundColor;
      const opacity = channels(colour)[3];
      // Washes are set to weight 1 by the test, so that a background is whole or absent.
      if (opacity > 250) return colour;
      if (opacity > 5) throw new Error(`${element.className} is half transparent: ${colour}`);
      return behind(element.parentElement);
    };
    const found = [];
    for (const element of document.querySelectorAll("body, body *")) {
      const own = [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim());
      const shown = element.checkVisibility({ visibilityProperty: true });
      if (!own || !shown || element.closest("noscript, .unseen")) continue;
      const one = luminance(getComputedStyle(element).color);
      const two = luminance(behind(element));
      const contrast = (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
      found.push([contrast, `${element.tagName} ${element.id} ${element.className}`]);
    }
    return found.sort((a, b) => a[0] - b[0]);"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_contrasts_with_its_background(page, stub, scheme):
    page.open(stub, scheme=scheme)
    page.translate("one two three\nfour")
    page.run("document.getElementById('server').open = true")
    page.run("""
        [...document.querySelectorAll("#source-tokens .token")].forEach(
          (element, n) => element.style.setProperty("--weight", n === 0 ? 1 : 0));""")
    page.run("for (const id of ['alarm', 'numbers']) document.getElementById(id).hidden = false")
    page.run("document.getElementById('alarm-title').textContent = 'alarm'")
    found = page.run(CONTRAST)
    assert len(found) > 40
    assert found[0][0] >= 4.5, found[:5]
    ground = page.run("return getComputedStyle(document.body).backgroundColor")
    assert (int(re.search(r"\d+", ground)[0]) > 128) == (scheme == "light")


def test_a_large_heat_map_follows_the_pointer_without_delay(page, stub):
    """Measures a movement over 60 x 60 pieces and 8 heads with the browser's own clock."""
    tokens = [f"\u2581word{n}" for n in range(59)] + ["</s>"]
    heads = [[[float(s == t) for s in range(60)] for t in range(60)]] * 8
    stub.attention = lambda source, target: (tokens, tokens, heads)
    page.open(stub)
    page.translate("one")
    moved = """
        const buttons = document.querySelectorAll("#target-tokens button");
        const times = [...buttons].map(button => {
          const start = performance.now();
          button.dispatchEvent(new PointerEvent("pointerover", { bubbles: true }));
          document.body.offsetHeight;  // has the browser lay the page out
          return performance.now() - start;
        });
        return times.sort((a, b) => a - b)[30];"""
    assert page.run(moved) < 50  # milliseconds, at the median
    assert page.run("return document.querySelectorAll('*').length") < 1000  # no cell is an element
    assert page.weights()[-1] == 1


def test_right_to_left_text_and_its_arrow_keys_go_from_right_to_left(page, stub):
    from selenium.webdriver.common.keys import Keys

    hebrew = "שני כלבים רצים"
    stub.n_best = lambda text: ([hebrew], [-0.5])
    page.open(stub)
    page.translate("two dogs run", translation=hebrew)
    for selector in ("#lines > *", ".words", "#target-tokens"):
        direction = "return getComputedStyle(document.querySelector(arguments[0])).direction"
        assert page.run(direction, selector) == "rtl", selector
    page.run("document.querySelector('#target-tokens button').focus()")
    page.press(Keys.ARROW_LEFT)
    assert page.text("#target-tokens [aria-pressed=true]") == hebrew.split()[1]


@pytest.mark.parametrize(
    "text, language",
    [
        ("나는 학교 에", "ko"),
        ("私 は 学校", "ja"),
        ("我 去 学校", "zh"),
        ("שלום עולם", ""),
        ("one two", ""),
    ],
)
def test_text_has_the_direction_and_font_of_its_script(page, stub, text, language):
    page.open(stub)
    page.run("document.getElementById('numbers').open = true")
    page.translate(text)
    page.until("document.querySelector('#numbers td') !== null")
    places = ["#source", "#lines > *", ".words", "#target-tokens", "#source-tokens"]
    cells = ["#map-columns span", "#map-rows span", "#numbers thead th + th", "#numbers tbody th"]
    for place in places + cells:
        element = page.driver.find_element("css selector", place)
        assert page.run("return arguments[0].dir", element) == "auto", place
        nearest = "return arguments[0].closest('[lang]').lang"
        assert page.run(nearest, element) == language, place
        family = page.run("return getComputedStyle(arguments[0]).fontFamily", element)
        assert "system-ui" in family, place
        assert ("Malgun Gothic" in family) == (language == "ko"), place
        direction = page.run("return getComputedStyle(arguments[0]).direction", element)
        assert (direction == "rtl") == (text[0] == "ש"), place


def test_a_piece_of_another_script_is_not_reordered_by_its_neighbors(page, stub):
    pieces = ["\u2581\u05d0\u05d1", "\u2581C++", "</s>"]
    stub.attention = lambda source, target: (pieces, ["x", "</s>"], [[[0.1] * 3] * 2])
    page.open(stub)
    page.translate("one")
    script = "return getComputedStyle(document.querySelectorAll('#source-tokens .token')[1])"
    assert page.run(f"{script}.unicodeBidi") == "plaintext"
    labels = "return [...document.querySelectorAll('#map-columns span')].map(e => "
    assert page.run(f"{labels}getComputedStyle(e).direction)") == ["rtl", "ltr", "ltr"]


@pytest.mark.parametrize("line", ["\u3000", "\u200b", "\ufeff\u00a0", "\u2003 \u205f"])
def test_lines_that_are_blank_in_unicode_are_not_sent(page, stub, line):
    page.open(stub)
    page.translate(f"one\n{line}\ntwo")
    assert stub.predictions("n_best") == [{"text": ["one", "two"]}]
    page.paste(line)
    assert page.run("return document.getElementById('translate').disabled")


def test_a_repeated_hypothesis_is_shown_once(page, stub):
    stub.n_best = lambda text: (["A", "B", "A", "C", ""], [-0.1, -0.2, -0.3, -0.4, -1e9])
    page.open(stub)
    page.translate("one", translation="A")
    assert page.texts(".words") == ["A", "B", "C"]
    scores = ["\u22120.100", "\u22120.200", "\u22120.400"]
    assert page.texts(".score") == [f"score {score}" for score in scores]


def test_copy_copies_every_line(page, stub):
    page.open(stub)
    page.translate("one\n\ntwo three")
    origin = {"origin": stub.address, "permissions": ["clipboardReadWrite"]}
    page.driver.execute_cdp_cmd("Browser.grantPermissions", origin)
    page.click("#copy")
    page.until("document.getElementById('copy').textContent === 'Copied'")
    assert page.run("return navigator.clipboard.readText()") == "ONE\n\nTWO THREE"


@pytest.fixture(scope="module")
def real_server(chromium, request, tmp_path_factory):
    """The address of `training.serve` with an export: PAGE_MODEL's, or a small one."""
    pytest.importorskip("starlette", reason="the extra serve is absent: pip install -e .[serve]")
    pytest.importorskip("uvicorn", reason="the extra serve is absent: pip install -e .[serve]")
    folder = os.environ.get("PAGE_MODEL")
    if not folder:
        from keras_transformer.export.saved_model import export_saved_model
        from keras_transformer.translator import Translator

        folder = tmp_path_factory.mktemp("exports") / "number_words"
        run = request.getfixturevalue("finished_run")
        export_saved_model(Translator.load(run), str(folder))
    command = [sys.executable, "-m", "training.serve", str(folder), "--port=0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        told = next(line for line in server.stdout if line.startswith("serving http"))
        yield re.search(r"http://[^/]+", told)[0]
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)


@pytest.mark.slow
def test_the_page_shows_the_answers_of_a_real_server(page, real_server):
    name = json.load(urllib.request.urlopen(f"{real_server}/page.json"))["model"]
    text = "one two three four"
    page.open(real_server)
    page.until("document.getElementById('server-state').textContent.endsWith('version 1')")
    page.paste(text)
    page.until("document.querySelector('#target-tokens [aria-pressed=true]') !== null")
    inputs = {"signature_name": "n_best", "inputs": {"text": [text]}}
    request = urllib.request.Request(
        f"{real_server}/v1/models/{name}:predict", json.dumps(inputs).encode()
    )
    outputs = json.load(urllib.request.urlopen(request))["outputs"]
    expected = [translation or "(empty)" for translation in outputs["translations"][0]]
    assert page.texts(".words") == expected
    pieces = page.texts("#target-tokens button")
    assert pieces[-1] == "end"
    assert "".join(pieces[:-1]) == expected[0].replace(" ", "")
    assert sum(page.weights()) == pytest.approx(1, abs=0.01)
    addresses = page.asked_addresses()
    allowed = (f"{real_server}/", "data:image/svg+xml,")
    assert [address for address in addresses if not address.startswith(allowed)] == []
    assert page.complaints() == []


PICTURES = [  # name, width, scheme, the target token that is pointed at
    ("page_light", 960, "light", 6),
    ("page_dark", 960, "dark", 6),
    ("page_phone", 390, "light", 6),
]
SHOWN = "Ma voisine n'a pas trouvé de belles montres anglaises."


@pytest.mark.slow
@pytest.mark.skipif("PAGE_PICTURES" not in os.environ, reason="PAGE_PICTURES names no folder")
def test_pictures_of_the_page(page, real_server):
    for name, width, scheme, token in PICTURES:
        page.open(real_server, width=width, height=1400, scheme=scheme)
        page.paste(os.environ.get("PAGE_TEXT", SHOWN))
        page.until("document.querySelector('#target-tokens [aria-pressed=true]') !== null")
        page.run("document.querySelectorAll('#target-tokens button')[arguments[0]].click()", token)
        page.run("document.activeElement.blur()")
        size = page.driver.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": width, "height": size["height"], "scale": 1}
        options = {"format": "png", "captureBeyondViewport": True, "clip": clip}
        shot = page.driver.execute_cdp_cmd("Page.captureScreenshot", options)["data"]
        picture = Path(os.environ["PAGE_PICTURES"]) / f"{name}.png"
        picture.write_bytes(base64.b64decode(shot))
        assert picture.stat().st_size <= 200 * 1024
