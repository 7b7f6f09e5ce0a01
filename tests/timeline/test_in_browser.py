"""The page in a real browser: it draws, finds, zooms and folds, and hostile names stay text."""

from __future__ import annotations

import base64
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.timeline.columns import columns
from pipeline.timeline.page import page
from tests.sampling import times
from tests.timeline import browser as chromium
from tests.timeline.browser import Browser
from tests.timeline.processes import BEGIN_NS, HOSTILE, MS, build, killed, process

pytestmark = pytest.mark.slow

CTRL = 2
ROW = 22  # CSS pixels, as in drawing.js
#: Files of the large build, with four processes for each.
UNITS = times(5000, 500)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = chromium.binary()
    if program is None:
        reason = "Chromium is not installed (apt-get install chromium-headless-shell): NO BROWSER TEST OF TIMELINES"
        if os.environ.get("PROCLINE_REQUIRE_BROWSER") == "1":
            pytest.fail(f"PROCLINE_REQUIRE_BROWSER=1, but {reason}", pytrace=False)
        pytest.skip(reason)
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
        chromium.browser(program, Path(profile)) as found,
    ):
        found.media(prefers_reduced_motion="reduce")
        yield found


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a page of a small build, of a large one, and of hostile processes."""
    directory = tmp_path_factory.mktemp("pages")
    small = [*build(12), process(5000, 200, 210, 101, path="/usr/bin/crash", argv=["crash"], **killed(11))]
    hostile = [
        process(100, 0, None, path="/usr/bin/bash", argv=["bash"]),
        process(7, 10, 300, 100, path=f"/tmp/{HOSTILE}", argv=[HOSTILE, "x" * 20_000], user=HOSTILE,
                before=f"/tmp/{HOSTILE}"),
        process(8, 20, 200, 7, path="/tmp/שלום", argv=["שלום", "\u202eabc"]),
    ]  # fmt: skip
    for name, processes, end_ms in (("small", small, 600), ("large", build(UNITS), 201_000), ("hostile", hostile, 600)):
        text = page(columns(processes, BEGIN_NS, BEGIN_NS + end_ms * MS), title=f"{name}: {HOSTILE}", version="9.9")
        (directory / f"{name}.html").write_text(text)
    return directory


def colours(browser: Browser, selector: str = "#stage") -> Counter[bytes]:
    """Count the colours in an element, as it is seen: RGB, 3 bytes."""
    picture = base64.b64encode(browser.screenshot()).decode()
    counts = browser.run(f"""(async () => {{
        const png = Uint8Array.from(atob("{picture}"), (c) => c.charCodeAt(0));
        const image = await createImageBitmap(new Blob([png], {{ type: "image/png" }}));
        const box = document.querySelector("{selector}").getBoundingClientRect();
        const context = new OffscreenCanvas(image.width, image.height).getContext("2d");
        context.drawImage(image, 0, 0);
        const {{ data }} = context.getImageData(box.x, box.y, box.width, box.height);
        const counts = {{}};
        for (let i = 0; i < data.length; i += 4) {{
            const key = data[i] << 16 | data[i + 1] << 8 | data[i + 2];
            counts[key] = (counts[key] || 0) + 1;
        }}
        return counts;
    }})()""")
    return Counter({int(key).to_bytes(3, "big"): count for key, count in counts.items()})


def colour_of(browser: Browser, executable: str) -> bytes:
    """Return the colour that the legend shows for an executable."""
    chip = f"[...document.querySelectorAll('#legend button')].find(b => b.dataset.name === '{executable}')"
    text = browser.run(f"getComputedStyle({chip}.querySelector('i')).backgroundColor")
    return bytes(int(part) for part in text.removeprefix("rgb(").removesuffix(")").split(","))


def row_middle(browser: Browser, place: int) -> float:
    return browser.box("#stage")["y"] + place * ROW + ROW / 2


def test_it_draws_a_bar_in_the_colour_of_each_executable(browser: Browser, pages: Path) -> None:
    browser.open(pages / "small.html")
    seen = colours(browser)
    for executable in ("bash", "make", "dash", "gcc", "cc1"):
        assert seen[colour_of(browser, executable)] > 100, executable
    assert seen[colour_of(browser, "bash")] > seen[colour_of(browser, "make")] > seen[colour_of(browser, "cc1")]
    assert browser.text("#status").startswith("51 rows, ")
    assert browser.complaints == []
    assert browser.requests == [(pages / "small.html").as_uri()]


def test_it_is_readable_in_the_dark(browser: Browser, pages: Path) -> None:
    browser.open(pages / "small.html")
    light = colours(browser).most_common(1)[0][0]
    browser.media(prefers_color_scheme="dark", prefers_reduced_motion="reduce")
    try:
        dark = colours(browser)
        assert sum(light) > 600 > 150 > sum(dark.most_common(1)[0][0])
        assert dark[colour_of(browser, "make")] > 100
    finally:
        browser.media(prefers_color_scheme="light", prefers_reduced_motion="reduce")


def test_a_search_marks_what_matches(browser: Browser, pages: Path) -> None:
    browser.open(pages / "small.html")
    before = colours(browser)[colour_of(browser, "make")]
    browser.press("/")
    browser.type("cc1 file7")
    assert browser.text("#found") == "1 match"
    assert colours(browser)[colour_of(browser, "make")] < before / 10, "what does not match is faint"
    browser.press("Enter", "\r")
    browser.settle()
    assert browser.text("#found") == "1 of 1 match"
    assert "cc1 1030" in browser.text("#details") and "cc1 file7.c" in browser.text("#details")
    browser.run("document.getElementById('only').click()")
    browser.settle()
    assert browser.text("#status").startswith("5 rows, "), "the match, and what it descends from"
    browser.run("document.getElementById('only').click()")
    browser.press("Escape")
    browser.settle()
    assert browser.text("#found") == "" and browser.text("#status").startswith("51 rows, ")


@pytest.mark.parametrize(("query", "matches"), [("failed", "2 matches"), ("1030", "1 match"), ("SIGSEGV", "1 match"),
                                                ("root gcc file3.c", "3 matches"), ("ssh.service", "51 matches"),
                                                ("nothing-of-this", "0 matches")])  # fmt: skip
def test_a_search_reads_more_than_names(browser: Browser, pages: Path, query: str, matches: str) -> None:
    browser.open(pages / "small.html", f"q={query.replace(' ', '+')}")
    assert browser.text("#found") == matches


def test_zooming_shows_a_part_of_the_time_and_what_ran_in_it(browser: Browser, pages: Path) -> None:
    browser.open(pages / "small.html")
    assert browser.text("#status").endswith("; 0 ms to 600 ms")
    stage = browser.box("#stage")
    x = stage["x"] + stage["width"] * 0.28 + 40
    for _ in range(6):
        browser.mouse("mouseWheel", x, row_middle(browser, 2), deltaX=0, deltaY=-120, modifiers=CTRL)
    browser.settle()
    status = browser.text("#status")
    assert int(status.split()[0]) < 51 and "600 ms" not in status
    narrow = colours(browser)[colour_of(browser, "cc1")]
    browser.press("0")
    browser.settle()
    assert browser.text("#status").startswith("51 rows, ") and narrow > colours(browser)[colour_of(browser, "cc1")]
    browser.press("+")
    browser.wait("new URLSearchParams(location.hash.slice(1)).get('t') === '0.120000,0.480000'")
    browser.press("-")
    browser.wait("location.hash === ''")


def test_a_double_click_shows_the_time_of_a_process(browser: Browser, pages: Path) -> None:
    browser.open(pages / "small.html")
    y = row_middle(browser, 4)
    for count in (1, 2):
        browser.mouse("mousePressed", 60, y, button="left", clickCount=count)
        browser.mouse("mouseReleased", 60, y, button="left", clickCount=count)
    browser.settle()
    assert "cc1 1002" in browser.text("#details")
    browser.wait("location.hash.includes('t=0.006540%2C0.052460')")


def test_folding_hides_what_is_below(browser: Browser, pages: Path) -> None:
    browser.open(pages / "small.html")
    browser.click(14, row_middle(browser, 0))  # the triangle of the shell
    assert browser.text("#status").startswith("1 row, ")
    browser.click(14, row_middle(browser, 0))
    assert browser.text("#status").startswith("51 rows, ")
    browser.press("f")
    browser.settle()
    assert browser.text("#status").startswith("1 row, ")
    browser.press("u")
    browser.settle()
    assert browser.text("#status").startswith("51 rows, ")


def test_a_pointer_on_a_row_shows_images_exit_and_cost(browser: Browser, pages: Path) -> None:
    browser.open(pages / "small.html")
    box = browser.box("#stage")
    browser.mouse("mouseMoved", box["x"] + box["width"] * 0.6, row_middle(browser, 4))
    browser.settle()
    tip = browser.text("#tip")
    assert tip.startswith("cc1 1002")
    for text in (
        "fork of /usr/bin/gcc", "exec of /usr/libexec/gcc/cc1 after 1 ms", "40 ms: 38 ms user, 2 ms system",
        "30 MiB at most", "4,000 minor, 0 major", "12 voluntary, 3 involuntary",
        "4 KiB read, 0 B written", "after 41 ms", "gcc 1001", "ssh.service",
        "2025-11-28 03:20:00.009000 UTC (+9 ms)",
    ):  # fmt: skip
        assert text in tip, (text, tip)
    browser.mouse("mouseMoved", 5, 5)
    browser.settle()
    assert browser.text("#tip") == ""


def test_everything_works_by_keyboard(browser: Browser, pages: Path) -> None:
    browser.open(pages / "small.html")
    for _ in range(4):
        browser.press("ArrowDown")
    browser.settle()
    assert browser.text("#details").startswith("gcc 1001")
    browser.press("ArrowLeft")
    browser.settle()
    assert browser.text("#status").startswith("49 rows, ")
    browser.press("ArrowLeft")
    browser.settle()
    assert browser.text("#details").startswith("dash 1000"), "a folded row: the process above"
    browser.press("End")
    browser.press("Home")
    browser.settle()
    assert browser.text("#details").startswith("bash 100")
    browser.press("Enter", "\r")
    browser.press("Escape")
    browser.settle()
    assert browser.text("#panel") == ""
    browser.press("?")
    assert browser.run("document.getElementById('help').open") is True
    browser.press("Escape")
    browser.wait("!document.getElementById('help').open")


def test_the_address_brings_everything_back(browser: Browser, pages: Path) -> None:
    browser.open(pages / "small.html", "q=file3.c&t=0.1,0.3&row=1&by=parent&only=1")
    assert browser.text("#found") == "3 matches" and browser.text("#details").startswith("make 101")
    assert browser.run("document.getElementById('by').value") == "parent"
    assert browser.text("#status").endswith("; 100 ms to 300 ms")
    for fragment in ("t=9,1", "t=x", "row=99999", "row=-3", "fold=7.x.99999", "by=<b>", "q=%00%ff", "t=1e9,2e9"):
        browser.open(pages / "small.html", fragment)
        assert "row" in browser.text("#status") and browser.complaints == [], fragment


def test_hostile_names_stay_text(browser: Browser, pages: Path) -> None:
    browser.open(pages / "hostile.html")
    elements = browser.run("document.querySelectorAll('script, img').length")
    assert elements == 2, "the data and the script of the page"
    assert browser.run("document.title").startswith("Procline: hostile: </script>")
    for place in (1, 2):
        browser.mouse("mouseMoved", 700, row_middle(browser, place))
        browser.settle()
        browser.click(700, row_middle(browser, place))
        for shown in (browser.text("#tip"), browser.text("#details")):
            assert "\u202e" not in shown and "\x1b" not in shown
    browser.press("ArrowUp")
    browser.settle()
    details = browser.text("#details")
    assert "</script><script>document.title='out'</script>" in details.replace("'\"'\"'", "'")
    assert "\\x1b[31m\\u202egnp.exe\\xff" in details
    box, seen = browser.box("#panel"), browser.box("body")
    assert box["x"] >= 0 and box["x"] + box["width"] <= seen["width"] and box["y"] + box["height"] <= seen["height"]
    assert browser.complaints == [] and len(browser.requests) == 1


def test_20_000_processes_stay_usable(browser: Browser, pages: Path) -> None:
    assert (pages / "large.html").stat().st_size < 5_000_000
    browser.open(pages / "large.html")
    assert browser.text("#status").startswith(f"{4 * UNITS + 2:,} rows, ")
    assert browser.run("document.querySelectorAll('*').length") < 300, "rows are drawn, they are no elements"
    # Each step is drawn before the next. The bounds are far above what a quiet host needs (10 to 40 ms).
    slowest = browser.run("""(async () => {
        const [scroller, search, found] = [document.getElementById("scroller"), document.getElementById("search"), []];
        const step = async (act) => {
            const began = performance.now();
            act();
            await new Promise(requestAnimationFrame);
            await new Promise(requestAnimationFrame);
            found.push(performance.now() - began);
        };
        for (let i = 0; i < 10; i++) await step(() => { scroller.scrollTop += 20000; });
        for (let i = 0; i < 10; i++) await step(() => document.getElementById("in").click());
        for (const text of ["c", "cc1", "cc1 file12"]) {
            await step(() => { search.value = text; search.dispatchEvent(new Event("input")); });
        }
        return found.sort((a, b) => a - b)[Math.floor(found.length / 2)];
    })()""")
    assert slowest < 500
    assert browser.text("#found") == f"{sum(str(unit).startswith('12') for unit in range(UNITS))} matches"


def test_a_narrow_screen_has_everything(browser: Browser, pages: Path) -> None:
    browser.call("Emulation.setDeviceMetricsOverride", width=380, height=700, deviceScaleFactor=2, mobile=False)
    try:
        browser.open(pages / "small.html")
        wide = browser.run(
            "[...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > 381"
            " && !e.closest('#legend > *')).map(e => e.id || e.tagName)"
        )
        assert wide == []
        assert browser.box("#stage")["height"] > 250
    finally:
        browser.call("Emulation.clearDeviceMetricsOverride")
