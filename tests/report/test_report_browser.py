"""The report in a real browser: Chromium, headless, with nothing to reach but the file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from memroute_eval.report import write_report

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
CHROMEDRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--hide-scrollbars",
)
PHONE, DESKTOP = (390, 844), (1280, 900)

CONTRAST = """
const parse = (text) => {
  const numbers = text.match(/[-\\d.e]+/g).map(Number);
  const scale = text.startsWith("color(") ? 255 : 1;
  return [numbers[0] * scale, numbers[1] * scale, numbers[2] * scale, numbers[3] ?? 1];
};
const luminance = ([r, g, b]) => {
  const [x, y, z] = [r, g, b].map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * x + 0.7152 * y + 0.0722 * z;
};
const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3]));
const ground = (element) => {
  const layers = [];
  for (let e = element; e; e = e.parentElement) {
    const colour = parse(getComputedStyle(e).backgroundColor);
    layers.push(colour);
    if (colour[3] >= 1) break;
  }
  return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255]);
};
const weak = [];
for (const e of document.querySelectorAll("body *")) {
  const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
  if (!own || !e.checkVisibility({ visibilityProperty: true }) || e.closest(".vh")) continue;
  const style = getComputedStyle(e);
  const svg = e instanceof SVGElement;
  const below = ground(svg ? e.closest("figure") || e.parentElement : e);
  const colour = over(parse(svg ? style.fill : style.color), below);
  const [a, b] = [luminance(colour), luminance(below)].sort((x, y) => y - x);
  const size = parseFloat(style.fontSize), bold = Number(style.fontWeight) >= 700;
  const needed = size >= 24 || (bold && size >= 18.66) ? 3 : 4.5;
  const ratio = (a + 0.05) / (b + 0.05);
  if (ratio < needed) weak.push([ratio.toFixed(2), e.className.baseVal ?? e.className,
    e.textContent.trim().slice(0, 40)]);
}
return weak;
"""


class Browser:
    """A Chromium that remembers what pages asked for and complained about."""

    def __init__(self, profile: Path) -> None:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM or ""
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options, Service(CHROMEDRIVER))

    def open(self, path: Path, fragment: str = "", size=DESKTOP, scheme: str = "light") -> None:
        """A fresh load of the page at a window size and with the system's colour scheme."""
        width, height = size
        self.driver.get("about:blank")
        self.logs()
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        self.command(
            "Emulation.setEmulatedMedia",
            features=[
                {"name": "prefers-color-scheme", "value": scheme},
                {"name": "prefers-reduced-motion", "value": "reduce"},
            ],
        )
        self.driver.get(path.as_uri() + fragment)

    def command(self, name: str, **arguments) -> None:
        self.driver.execute_cdp_cmd(name, arguments)

    def js(self, script: str, *arguments):
        return self.driver.execute_script(script, *arguments)

    def logs(self) -> tuple[list[str], list[str]]:
        """Console messages and requested addresses since the last call."""
        console = [entry["message"] for entry in self.driver.get_log("browser")]
        events = [json.loads(e["message"])["message"] for e in self.driver.get_log("performance")]
        requests = [
            event["params"]["request"]["url"]
            for event in events
            if event["method"] == "Network.requestWillBeSent"
        ]
        return console, requests

    def set(self, **fields: str) -> None:
        """Fill the filter form as a reader would: each change fires an input event."""
        for name, value in fields.items():
            self.js(
                "const f = document.getElementById('filters').elements[arguments[0]];"
                "f.value = arguments[1]; f.dispatchEvent(new Event('input', {bubbles: true}));",
                name,
                value,
            )

    def shown(self) -> list[str]:
        """Ids of the scenarios that the filters leave."""
        return self.js(
            "return [...document.querySelectorAll('.card')].filter((c) => c.checkVisibility())"
            ".map((c) => c.querySelector('.sid').textContent)"
        )


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    pytest.importorskip("selenium", reason="selenium is not installed")
    if not (CHROMIUM and CHROMEDRIVER):
        pytest.skip("chromium and chromedriver are not installed")
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.driver.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory, results, dataset, curve_rows) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_report([results], path, [{"name": "run", "rows": curve_rows}], data=dataset)
    return path


@pytest.fixture(scope="module")
def hostile_page(tmp_path_factory, hostile_results, hostile_dataset) -> Path:
    path = tmp_path_factory.mktemp("hostile") / "report.html"
    write_report([hostile_results], path, data=hostile_dataset)
    return path


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_is_quiet_fits_the_width_and_can_be_read(browser, page, tmp_path, size, scheme):
    browser.open(page, size=size, scheme=scheme)
    browser.js("document.querySelectorAll('details').forEach((d) => { d.open = true })")
    assert browser.js("return document.documentElement.scrollWidth") <= size[0]
    assert browser.js(CONTRAST) == []
    console, requests = browser.logs()
    assert console == []
    assert {url.split(":")[0] for url in requests} <= {"file", "data"}
    shot = tmp_path / "page.png"
    assert browser.driver.save_screenshot(str(shot)) and shot.stat().st_size > 10_000


def test_hostile_text_neither_runs_nor_breaks_the_page(browser, hostile_page, hostile_dataset):
    browser.open(hostile_page)
    browser.js("document.querySelectorAll('details').forEach((d) => { d.open = true })")
    browser.js(
        "document.querySelectorAll('.t').forEach((n) => n.dispatchEvent("
        "new MouseEvent('mouseover', {bubbles: true})))"
    )
    assert browser.js("return window.pwned === undefined")
    assert browser.js("return document.querySelectorAll('h1').length") == 1
    assert browser.js("return document.querySelectorAll('img, iframe, textarea').length") == 0
    assert len(browser.shown()) == len(hostile_dataset)
    texts = browser.js("return [...document.querySelectorAll('.turn .t')].map(n => n.textContent)")
    assert "number 0 <script>window.pwned = 1</script>" in texts
    console, requests = browser.logs()
    assert console == []
    assert {url.split(":")[0] for url in requests} <= {"file", "data"}


def test_hostile_names_can_be_filtered_and_linked(browser, hostile_page):
    browser.open(hostile_page)
    anchors = browser.js("return [...document.querySelectorAll('.card')].map((c) => c.id)")
    domains = browser.js(
        "return [...document.getElementById('filters').elements.domain.options].map(o => o.value)"
    )
    for domain in domains[1:]:
        browser.set(domain=domain)
        assert len(browser.shown()) == 1
    for anchor in anchors:
        browser.open(hostile_page, f"#{anchor}")
        assert browser.js("return document.getElementById(arguments[0]).open", anchor)
    browser.set(
        agent=browser.js(
            "return document.getElementById('filters').elements.agent.options[3].value"
        )
    )
    assert browser.js("return document.querySelectorAll('.card:not([hidden])').length") > 0


def expected(results, agent=None, keep=lambda row: True):
    """Ids of the scenarios where an agent's (or any agent's) row is kept."""
    names = [agent] if agent else list(results["agents"])
    return {row["id"] for name in names for row in results["agents"][name]["examples"] if keep(row)}


def exact(row) -> bool:
    return not row.get("error") and not row["malformed"] and row["predicted"] == row["gold"]


def test_filters_leave_what_the_results_say(browser, page, results):
    browser.open(page)
    assert len(browser.shown()) == 40
    agent = "chat:model"
    browser.set(agent=agent, verdict="right")
    assert set(browser.shown()) == expected(results, agent, exact)
    browser.set(verdict="not-right")
    assert set(browser.shown()) == expected(results, agent, lambda r: not exact(r))
    browser.set(verdict="failed")
    assert set(browser.shown()) == expected(results, agent, lambda r: bool(r.get("error")))
    browser.set(verdict="malformed")
    assert set(browser.shown()) == expected(results, agent, lambda r: bool(r.get("malformed")))
    browser.set(agent="", verdict="", difficulty="hard", domain="User Preferences")
    assert set(browser.shown()) == expected(
        results,
        keep=lambda r: r["difficulty"] == "hard" and r["domain"] == "User Preferences",
    )
    browser.set(difficulty="", domain="", category="user.role_context", agent=agent)
    assert set(browser.shown()) == expected(
        results, agent, lambda r: "user.role_context" in [*r["gold"], *r.get("predicted", ())]
    )
    count = browser.js("return document.getElementById('count').textContent")
    assert count == f"{len(browser.shown())} of 40 scenarios"
    browser.js("document.getElementById('clear').click()")
    assert len(browser.shown()) == 40


def test_search_finds_text_ids_and_answers(browser, page, dataset):
    browser.open(page)
    word = max(dataset[7].conversation.turns[0].content.split(), key=len)
    browser.set(q=word.upper())
    found = {e.id for e in dataset if word.lower() in e.conversation.to_text().lower()}
    assert dataset[7].id in found and found <= set(browser.shown())
    browser.set(q=dataset[11].id)
    assert dataset[11].id in browser.shown()
    browser.set(q="(?:.*[")
    assert browser.shown() == []
    assert browser.js("return document.getElementById('nothing').checkVisibility()")


def test_a_filtered_view_can_be_linked(browser, page):
    browser.open(page)
    browser.set(agent="random:uniform", verdict="wrong", q="the")
    shown, fragment = browser.shown(), browser.js("return location.hash")
    browser.open(page, fragment)
    assert browser.shown() == shown and 0 < len(shown) < 40
    assert browser.js("return document.getElementById('filters').elements.q.value") == "the"


def test_a_link_to_a_scenario_opens_it_even_behind_a_filter(browser, page, dataset):
    anchor = f"s-{dataset[30].id}"
    browser.open(page, f"#{anchor}")
    for _ in range(2):
        card = browser.js(
            "const c = document.getElementById(arguments[0]), b = c.getBoundingClientRect();"
            "return {open: c.open, hidden: c.hidden, top: b.top, height: innerHeight}",
            anchor,
        )
        assert card["open"] and not card["hidden"] and 0 <= card["top"] < card["height"] / 2
        browser.set(q="nothing at all has this text")
        assert browser.shown() == []
        browser.js("location.hash = '#' + arguments[0]", anchor)
        browser.js("return new Promise((done) => setTimeout(done, 100))")


def test_a_confusion_leads_to_its_scenarios(browser, page, results):
    browser.open(page)
    link = browser.js(
        "const a = document.querySelector('.heat [class^=h] a[href*=missed][href*=spurious]');"
        "a.click(); return a.getAttribute('href')"
    )
    browser.js("return new Promise((done) => setTimeout(done, 100))")
    query = browser.js(
        "return Object.fromEntries(new URLSearchParams(arguments[0].slice(6)))", link
    )

    def confused(row) -> bool:
        answer = row.get("predicted") or []
        return (
            query["missed"] in row["gold"]
            and query["missed"] not in answer
            and query["spurious"] in answer
        )

    assert set(browser.shown()) == expected(results, query["agent"], confused) != set()
    browser.js("document.querySelectorAll('.token').forEach((t) => t.click())")
    assert len(browser.shown()) == 40


def test_theme_follows_the_system_until_the_reader_chooses(browser, page):
    ground = "return getComputedStyle(document.body).backgroundColor"
    browser.open(page, scheme="light")
    light = browser.js(ground)
    browser.open(page, scheme="dark")
    dark = browser.js(ground)
    assert light != dark
    browser.js("document.getElementById('theme').click()")
    assert browser.js(ground) == light
    browser.open(page, scheme="dark")
    assert browser.js(ground) == light
    browser.js("const t = document.getElementById('theme'); t.click(); t.click()")
    assert browser.js(ground) == dark


def test_the_keyboard_is_enough(browser, page):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    browser.open(page)
    ActionChains(browser.driver).send_keys(Keys.TAB).perform()
    assert browser.js("return document.activeElement.className") == "skip"
    ActionChains(browser.driver).send_keys("/").perform()
    assert browser.js("return document.activeElement.name") == "q"
    browser.js("document.querySelector('.card summary').focus()")
    ActionChains(browser.driver).send_keys(Keys.ENTER).perform()
    assert browser.js("return document.querySelector('.card').open")


def test_without_script_everything_can_still_be_read(browser, page):
    browser.command("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(page)
        visible = browser.js(
            "return [document.querySelectorAll('.card').length,"
            "document.getElementById('filters').hidden, document.getElementById('theme').hidden]"
        )
        assert visible == [40, True, True]
    finally:
        browser.command("Emulation.setScriptExecutionDisabled", value=False)


def test_print_is_light_and_without_controls(browser, page):
    browser.open(page, scheme="dark")
    browser.command("Emulation.setEmulatedMedia", media="print")
    try:
        assert browser.js("return getComputedStyle(document.body).backgroundColor") == (
            "rgb(255, 255, 255)"
        )
        assert not browser.js("return document.querySelector('.filters').checkVisibility()")
    finally:
        browser.command("Emulation.setEmulatedMedia", media="")
