"""The page in a real browser: it sorts, it fits, it can be seen, and it needs nothing else."""

import json
import re

import pytest

from hiddenkey.lab.report import tabulate, write_report
from lab.report.browser import chromium, show
from lab.report.synthetic import record, study

# selenium's own connections to the browser
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

WIDTHS = (400, 900, 1400)
ERROR = "Traceback\nRuntimeError: <script>document.title = 'broken'</script><img src=x onerror=x()>"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A report with every section, and a hostile error."""
    runs = study(
        tasks=("headlines", "cola"),
        chosen=("lora", "dropkey", "hiddenkey"),
        rates=(0.05, 0.1, 0.2),
        ranks=(4, 8),
        seeds=range(3),
        gains={"hiddenkey": 0.03},
    )
    runs += [
        record(method="hiddenkey", rate=0.1, seed=s, budget="time", max_steps=120) for s in range(3)
    ]
    runs += [
        record(method="lora", learning_rate=rate, stage="search", seed=100, fingerprint="v" * 64)
        for rate in (1e-3, 3e-3)
    ]
    runs += [record(method="dropkey", rate=0.1, seed=9, error=ERROR)]
    return write_report(tabulate(runs), tmp_path_factory.mktemp("report"), "compare").page


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """One browser for all tests of this file."""
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


def open_everything(page):
    page.execute_script("document.querySelectorAll('details').forEach(d => { d.open = true; })")


def open_runs(page):
    """The list of runs; the page builds it when the browser reports the opening, a moment later."""
    from selenium.webdriver.support.ui import WebDriverWait

    page.find_element("css selector", "#runs-list summary").click()
    WebDriverWait(page, 30).until(
        lambda page: page.find_elements("css selector", "#runs-table tbody tr")
    )


def column(page, table, index):
    return page.execute_script(
        "return [...document.getElementById(arguments[0]).tBodies[0].rows]"
        ".map(row => row.cells[arguments[1]].dataset.v ?? row.cells[arguments[1]].textContent)",
        table,
        index,
    )


def headings(page, table):
    return page.find_elements("css selector", f"#{table} thead th")


def natural(text):
    """Sort key of words and numbers."""
    parts = re.split(r"(\d+(?:\.\d+)?)", text)
    return [float(part) if index % 2 else part for index, part in enumerate(parts)]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_no_message_on_the_console_and_no_request(page, path, width, dark):
    page.get_log("browser"), page.get_log("performance")
    show(page, path, width=width, dark=dark)
    open_everything(page)
    assert page.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events
             if e["method"] == "Network.requestWillBeSent"]  # fmt: skip
    assert {url for url in asked if not url.startswith("data:")} == {path.as_uri()}
    assert page.title == "compare: hiddenkey report"


@pytest.mark.parametrize("width", WIDTHS)
def test_all_figures_can_be_seen_and_nothing_overflows(page, path, width):
    show(page, path, width=width)
    open_everything(page)
    boxes = page.execute_script(
        "return [...document.querySelectorAll('figure svg')].map(svg => {"
        " const box = svg.getBoundingClientRect();"
        " return [box.left, box.right, box.width, box.height, svg.checkVisibility(),"
        " svg.getAttribute('aria-label'), svg.querySelectorAll('path, use').length]; })"
    )
    pictures = list((path.parent / "figures").glob("*.svg"))
    assert len(boxes) == len(pictures) > 10
    for left, right, wide, high, visible, label, marks in boxes:
        assert visible
        assert left >= 0
        assert right <= width
        assert wide >= min(width - 50, 380)
        assert high >= 60
        assert len(label) > 40
        assert marks > 5
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    smallest = page.execute_script(
        "return Math.min(...[...document.querySelectorAll('figure svg text')].map(text =>"
        " parseFloat(getComputedStyle(text).fontSize) *"
        " Math.hypot(text.getScreenCTM().a, text.getScreenCTM().b)))"
    )
    assert smallest >= 8


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_begins_with_the_effects_and_says_what_to_do(page, path, width):
    show(page, path, width=width)
    leads = page.find_elements("css selector", ".lead")
    assert 0 < leads[0].rect["y"] < leads[-1].rect["y"] < 700, "above the fold"
    assert all("hiddenkey" in each.text and "seeds." in each.text for each in leads)
    assert page.find_element("css selector", "#theme").rect["y"] < leads[0].rect["y"]
    for each in leads:
        assert each.rect["x"] + each.rect["width"] <= width
        assert each.rect["width"] >= min(width - 60, 800), "nothing stands beside it"
    cards = page.find_elements("css selector", ".card")
    assert len(cards) == 3
    for card in cards:
        assert "What to do:" in card.text
        codes = card.find_elements("css selector", "pre.code")
        assert codes[0].text.startswith("hiddenkey ")
        for code in codes:
            wide, needed, size = page.execute_script(
                "const e = arguments[0];"
                "return [e.clientWidth, e.scrollWidth, parseFloat(getComputedStyle(e).fontSize)]",
                code,
            )
            assert needed <= wide <= card.rect["width"]
            assert size >= 12


def test_wide_tables_scroll_inside_their_box(page, path):
    show(page, path, width=400)
    open_everything(page)
    boxes = page.execute_script(
        "return [...document.querySelectorAll('.scroll')].filter(box => box.checkVisibility())"
        ".map(box => [box.scrollWidth > box.clientWidth, box.getBoundingClientRect().right,"
        " box.tabIndex, box.getAttribute('aria-label')])"
    )
    assert any(wide for wide, *_ in boxes)
    for _, right, tab, label in boxes:
        assert right <= 400
        assert tab == 0
        assert label


def test_tables_sort_by_click_in_both_directions(page, path):
    show(page, path, width=1400)
    heading = headings(page, "table-methods_last")[1]
    button = heading.find_element("tag name", "button")
    before = column(page, "table-methods_last", 0)
    button.click()
    assert heading.get_attribute("aria-sort") == "ascending"
    values = [float(value) for value in column(page, "table-methods_last", 1)]
    assert values == sorted(values)
    button.click()
    assert heading.get_attribute("aria-sort") == "descending"
    values = [float(value) for value in column(page, "table-methods_last", 1)]
    assert values == sorted(values, reverse=True)
    assert sorted(column(page, "table-methods_last", 0)) == sorted(before)


def test_tables_sort_by_keyboard_and_one_column_leads(page, path):
    from selenium.webdriver.common.keys import Keys

    show(page, path, width=1400)
    first, second, *_ = headings(page, "table-methods_last")
    button = first.find_element("tag name", "button")
    page.execute_script("arguments[0].focus()", button)
    button.send_keys(Keys.ENTER)
    labels = column(page, "table-methods_last", 0)
    assert labels == sorted(labels, key=natural)
    assert labels.index("dropkey, rank 4, rate 0.05") < labels.index("dropkey, rank 4, rate 0.1")
    button.send_keys(Keys.TAB)
    focused = page.switch_to.active_element
    assert focused == second.find_element("tag name", "button")
    focused.send_keys(Keys.SPACE)
    assert second.get_attribute("aria-sort") == "ascending"
    assert first.get_attribute("aria-sort") == "none"


def test_missing_numbers_stay_last_in_both_directions(page, path):
    show(page, path, width=1400)
    open_everything(page)
    names = [heading.text.split()[0] for heading in headings(page, "table-comparison")]
    index = names.index("difference")
    button = headings(page, "table-comparison")[index].find_element("tag name", "button")
    for _ in range(2):
        page.execute_script("arguments[0].click()", button)
        values = column(page, "table-comparison", index)
        known = [value for value in values if value]
        assert 0 < len(known) < len(values)
        assert values[: len(known)] == known


@pytest.mark.parametrize("system", ["light", "dark"])
def test_colours_follow_the_system_and_the_button_turns_them(page, path, system):
    show(page, path, width=1400, dark=system == "dark")
    page.refresh()

    def ground():
        return page.execute_script("return getComputedStyle(document.body).backgroundColor")

    colours = {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 22, 26)"}
    other = "dark" if system == "light" else "light"
    assert ground() == colours[system]
    button = page.find_element("id", "theme")
    assert button.text == f"{other.capitalize()} colours"
    button.click()
    assert ground() == colours[other]
    assert button.text == f"{system.capitalize()} colours"
    page.refresh()
    assert ground() == colours[other], "the choice is remembered"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_stands_out_from_its_ground(page, path, dark):
    """Contrast of at least 4.5 for text, also in the figures; 3 for lines and points."""
    show(page, path, width=1400, dark=dark)
    open_everything(page)
    worst = page.execute_script(CONTRAST)
    assert worst["text"] >= 4.5, worst
    assert worst["figure"] >= 4.5, worst
    assert worst["graphics"] >= (3 if dark else 2.2), "Okabe-Ito's orange has 2.2 on white"


def test_runs_show_configuration_and_environment(page, path):
    from selenium.webdriver.common.keys import Keys

    show(page, path, width=400)
    open_runs(page)
    rows = page.find_elements("css selector", "#runs-table tbody tr")
    total = int(page.find_element("id", "runs-count").text.split()[0])
    assert len(rows) == total > 80
    field = page.find_element("id", "runs-filter")
    field.send_keys("dropkey")
    assert 0 < len(page.find_elements("css selector", "#runs-table tbody tr")) < total
    page.find_element("css selector", "#runs-table tbody button").send_keys(Keys.ENTER)
    dialog = page.find_element("id", "run")
    assert dialog.aria_role == "dialog"
    assert dialog.get_attribute("open") is not None
    assert "dropkey" in page.find_element("id", "run-title").text
    for part in ("learning_rate", "0.001", "torch", "2.13.0+cpu", "rate"):
        assert part in dialog.text
    page.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert dialog.get_attribute("open") is None


def test_runs_sort(page, path):
    show(page, path, width=1400)
    open_runs(page)
    names = [heading.text.split()[0] for heading in headings(page, "runs-table")]
    headings(page, "runs-table")[names.index("seed")].find_element("tag name", "button").click()
    seeds = [int(seed) for seed in column(page, "runs-table", names.index("seed"))]
    assert seeds == sorted(seeds)


def test_errors_are_text(page, path):
    show(page, path, width=1400)
    fault = page.find_element("css selector", "#failed details")
    assert "<script>document.title" in fault.find_element("tag name", "summary").text
    fault.find_element("tag name", "summary").click()
    assert ERROR in fault.find_element("tag name", "pre").text
    assert page.find_elements("css selector", "#failed script, #failed img") == []
    assert page.title == "compare: hiddenkey report"


def test_everything_to_press_has_a_name(page, path):
    show(page, path, width=1400)
    open_everything(page)
    found = page.find_elements("css selector", "button, a, summary, input, [role=region]")
    shown = [element for element in found if element.is_displayed()]
    assert len(shown) > 50
    assert [e.get_attribute("outerHTML") for e in shown if not e.accessible_name.strip()] == []
    assert all(element.accessible_name for element in page.find_elements("css selector", "svg"))


CONTRAST = """
const parse = (text) => {
  const parts = text.match(/[\\d.]+/g).map(Number);
  return [parts[0], parts[1], parts[2], parts.length > 3 ? parts[3] : 1];
};
const light = (colour) => {
  const [r, g, b] = colour.slice(0, 3).map((part) => {
    const share = part / 255;
    return share <= 0.03928 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const ground = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const colour = parse(getComputedStyle(at).backgroundColor);
    if (colour[3] > 0) return colour;
  }
  return [255, 255, 255, 1];
};
const ratio = (one, two) => {
  const [high, low] = [light(one), light(two)].sort((a, b) => b - a);
  return (high + 0.05) / (low + 0.05);
};
const seen = (elements) => [...elements].filter((element) => element.checkVisibility());
const own = (element) => [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
const worst = { text: 99, figure: 99, graphics: 99 };
for (const element of seen(document.querySelectorAll("body *:not(svg *)"))) {
  if (!own(element)) continue;
  const found = ratio(parse(getComputedStyle(element).color), ground(element));
  if (found < worst.text) { worst.text = found; worst.element = element.outerHTML.slice(0, 90); }
}
for (const element of seen(document.querySelectorAll("svg text"))) {
  const found = ratio(parse(getComputedStyle(element).fill), ground(element));
  worst.figure = Math.min(worst.figure, found);
}
for (const element of seen(document.querySelectorAll("svg use"))) {
  const fill = getComputedStyle(element).fill;
  if (fill === "none") continue;
  worst.graphics = Math.min(worst.graphics, ratio(parse(fill), ground(element)));
}
return worst;
"""
