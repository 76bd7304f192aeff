"""The report and TensorBoard in headless Chromium: the pictures are there, and the report asks nobody for anything."""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import socket
import subprocess
import sys
import time
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_report import wins_and_losses

from heartnet.report import write_report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (apt-get install chromium)"),
]

# Elements below one, through the shadow roots that TensorBoard is made of.
DEEP = """
const deep = (root, found = []) => {
  for (const each of root.querySelectorAll('*')) {
    found.push(each);
    if (each.shadowRoot) deep(each.shadowRoot, found);
  }
  return found;
};
"""
IMAGES = f"(() => {{ {DEEP} return deep(document).filter(e => e.tagName == 'IMG' && e.naturalWidth > 300).length; }})()"
TEXT = f"(() => {{ {DEEP} return deep(document).filter(e => !e.shadowRoot).map(e => e.innerText).join(' '); }})()"
DRAWN = f"""(() => {{ {DEEP} return deep(document).filter(
  e => e.matches('svg path, svg circle') && e.getBoundingClientRect().width > 20).length; }})()"""


class Browser:
    """A page of headless Chromium, steered over pipes (Chrome DevTools Protocol), so that it opens no port."""

    def __init__(self, folder: Path) -> None:
        here_reads, there_writes = os.pipe()
        there_reads, here_writes = os.pipe()
        # Chromium reads from 3 and writes to 4, so nothing that it is to get may lie there before.
        theirs = [fcntl.fcntl(pipe, fcntl.F_DUPFD, 10) for pipe in (there_reads, there_writes)]
        options = [
            "--headless=new", "--disable-gpu", "--no-first-run", "--remote-debugging-pipe", "--window-size=1280,1000",
            "--disable-background-networking", f"--user-data-dir={folder}", "--disable-dev-shm-usage",
        ]  # fmt: skip
        options += ["--no-sandbox"] if os.geteuid() == 0 else []
        self.process = subprocess.Popen(
            [str(CHROMIUM), *options, "about:blank"], pass_fds=(3, 4), stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True,
            preexec_fn=lambda: [os.dup2(pipe, place) for pipe, place in zip(theirs, (3, 4), strict=True)],
        )  # fmt: skip
        for pipe in (there_reads, there_writes, *theirs):
            os.close(pipe)
        self.pipes, self.rest, self.number, self.session = (here_reads, here_writes), b"", 0, None
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self.number += 1
        message: dict[str, Any] = {"id": self.number, "method": method, "params": parameters}
        if self.session is not None:
            message["sessionId"] = self.session
        os.write(self.pipes[1], json.dumps(message).encode() + b"\0")
        while True:
            answer = self.message(30)
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def message(self, seconds: float) -> dict[str, Any]:
        end = time.monotonic() + seconds
        while b"\0" not in self.rest:
            ready, _, _ = select.select([self.pipes[0]], [], [], max(end - time.monotonic(), 0))
            assert ready, "Chromium does not answer"
            got = os.read(self.pipes[0], 1 << 20)
            assert got, "Chromium has ended"
            self.rest += got
        line, _, self.rest = self.rest.partition(b"\0")
        return json.loads(line)  # type: ignore[no-any-return]

    def open(self, address: str) -> None:
        self.events.clear()
        self.call("Page.navigate", url=address)
        self.until("document.readyState == 'complete'")

    def value(self, script: str) -> Any:
        return self.call("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def until(self, script: str, seconds: float = 60) -> Any:
        for _ in range(int(seconds * 4)):
            if found := self.value(script):
                return found
            time.sleep(0.25)
        raise AssertionError(f"never came true: {script}")

    def requests(self) -> list[str]:
        """Return the addresses that the page asked for, and what was blocked or went wrong."""
        asked = [e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"]
        return asked + [e["params"]["entry"]["text"] for e in self.events if e["method"] == "Log.entryAdded"]

    def scheme(self, name: str) -> None:
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def picture(self, file: Path) -> None:
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True, format="png")
        file.write_bytes(b64decode(shot["data"]))

    def close(self) -> None:
        for pipe in self.pipes:
            os.close(pipe)  # at which Chromium ends
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, 9)
            self.process.wait(10)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    started = Browser(tmp_path_factory.mktemp("chromium"))
    yield started
    started.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of train.py with two callbacks."""
    folder = tmp_path_factory.mktemp("run") / "run"
    overrides = [
        "data.users=12", "trainer.max_epochs=2", "model=compact", "model.conv_units=8", "model.lstm_units=8",
        "+callbacks=[amnesia,input_contract]", "callbacks.amnesia.dtype=float32", f"hydra.run.dir={folder}",
    ]  # fmt: skip
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "train.py", *overrides], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def tensorboard(run: Path) -> Iterator[str]:
    """The address of a TensorBoard over the run, on this machine only."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["-m", "tensorboard.main", "--logdir", str(run), "--host", "127.0.0.1", "--port", str(port)]
    served = subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(240):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        assert served.poll() is None
        time.sleep(0.25)
    yield f"http://127.0.0.1:{port}/"
    served.terminate()
    served.wait(20)


def test_the_report_shows_its_pictures_and_asks_nobody(browser: Browser, run: Path) -> None:
    page = run / "report.html"
    browser.open(page.as_uri())
    shown = browser.until(f"{IMAGES} >= 3 && {IMAGES}")
    assert shown == page.read_text(encoding="utf-8").count("<img ")
    assert [address for address in browser.requests() if not address.startswith("data:image/")] == [page.as_uri()]
    assert browser.value("document.scripts.length") == 0
    for width in (1280, 390):  # nothing is wider than the window, also on a telephone
        browser.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        assert browser.value("document.documentElement.scrollWidth") <= width
        tiny = "e => e.getBoundingClientRect().width < Math.min(e.naturalWidth, 700) - 1"
        assert browser.value(f"[...document.querySelectorAll('.pictures img')].filter({tiny}).length") == 0
    # On the telephone findings wrap, with all that is folded up; other tables and the pictures scroll by themselves.
    browser.value("document.querySelectorAll('details').forEach(e => { e.open = true })")
    wide = "e => e.scrollWidth > e.clientWidth + 1"
    assert browser.value(f"[...document.querySelectorAll('.card:has(.findings)')].filter({wide}).length") == 0
    assert browser.value("document.documentElement.scrollWidth") <= 390
    browser.call("Emulation.clearDeviceMetricsOverride")


@pytest.fixture
def weeks_page(tmp_path: Path) -> str:
    """The report of a run with twelve pictures of weeks, of two conditions."""
    wins_and_losses(tmp_path / "run")
    return write_report(tmp_path / "run").as_uri()


VISIBLE = """[...document.querySelectorAll('.pager img')].filter(e => e.checkVisibility()).map(e => e.alt)"""


def test_weeks_are_paged_through_by_click_and_by_key(browser: Browser, weeks_page: str) -> None:
    browser.open(weeks_page)

    def shown() -> list[str]:
        return [alt.partition(":")[0] for alt in browser.value(VISIBLE)]

    def click(selector: str) -> None:
        place = f"document.querySelector({json.dumps(selector)})"
        browser.value(f"{place}.scrollIntoView({{block: 'center'}})")
        x, y = browser.value(f"(b => [b.left + b.width / 2, b.top + b.height / 2])({place}.getBoundingClientRect())")
        for kind in ("mousePressed", "mouseReleased"):
            browser.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(key: str, code: int) -> None:
        for kind in ("keyDown", "keyUp"):
            browser.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    assert shown() == ["diabetes, false positive 1"], "of each condition one; the second is folded up"
    click("#week-1-1 ~ .body .turns label:last-child")
    assert shown() == ["diabetes, false positive 2"]
    for expected in ("false positive 3", "true positive 1"):
        press("ArrowRight", 39)
        assert shown() == [f"diabetes, {expected}"]
    press("ArrowLeft", 37)
    assert shown() == ["diabetes, false positive 3"]
    click("#week-1-3 ~ .body .turns label:first-child")
    assert shown() == ["diabetes, false positive 2"]
    click("#week-1-6")
    assert shown() == ["diabetes, true positive 3"]
    click("table.weeks label[for='week-1-5']")
    assert shown() == ["diabetes, true positive 2"]
    click("details.wins:not([open]) > summary")
    assert shown() == ["diabetes, true positive 2", "sleep apnea, false positive 1"], "each pages by itself"
    click("#week-2-1 ~ .body .turns label:last-child")
    assert shown() == ["diabetes, true positive 2", "sleep apnea, false positive 2"]
    assert [each for each in browser.requests() if not each.startswith("data:image/")] == [weeks_page]


def test_weeks_fit_a_telephone_and_all_are_printed(browser: Browser, weeks_page: str) -> None:
    browser.open(weeks_page)
    browser.value("document.querySelectorAll('details').forEach(e => e.open = true)")
    try:
        for width in (1280, 390):
            browser.call(
                "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False
            )
            assert browser.value("document.documentElement.scrollWidth") <= width
            small = "[...document.querySelectorAll('.pager input')].some(e => e.getBoundingClientRect().width < 20)"
            assert not browser.value(small)
            assert browser.value("document.querySelector('.pager img').getBoundingClientRect().width") >= 690
        browser.call("Emulation.setEmulatedMedia", media="print")
        assert len(browser.value(VISIBLE)) == 12
    finally:
        browser.call("Emulation.clearDeviceMetricsOverride")
        browser.call("Emulation.setEmulatedMedia", media="")


def test_curves_are_drawn_within_their_axes(browser: Browser, run: Path) -> None:
    browser.open((run / "report.html").as_uri())
    browser.value("document.querySelectorAll('details').forEach(e => e.open = true)")
    outside = """[...document.querySelectorAll('.chart')].filter(chart => {
      const box = chart.querySelector('svg').getBoundingClientRect();
      return [...chart.querySelectorAll('svg path, svg circle, svg text')].some(e => {
        const own = e.getBoundingClientRect();
        return own.left < box.left - 1 || own.right > box.right + 1 ||
               own.top < box.top - 1 || own.bottom > box.bottom + 1;
      });
    }).map(chart => chart.querySelector('figcaption').textContent)"""
    assert browser.value("document.querySelectorAll('.chart .line').length") > 10
    assert browser.value(outside) == []


def test_both_schemes_can_be_read(browser: Browser, run: Path) -> None:
    """Text stands out from its ground (WCAG contrast of at least 4.5) in the light and in the dark."""
    contrast = """(() => {
      const rgb = text => text.match(/[\\d.]+/g).map(Number);
      const light = text => {
        const linear = v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
        const [r, g, b] = rgb(text).slice(0, 3).map(v => linear(v / 255));
        return .2126 * r + .7152 * g + .0722 * b;
      };
      const ground = e => { for (; e; e = e.parentElement) {
          const own = getComputedStyle(e).backgroundColor;
          if ((rgb(own)[3] ?? 1) > .5) return own;
        }
        return 'rgb(255,255,255)';
      };
      let worst = [21, ''];
      for (const e of document.querySelectorAll('body *')) {
        if (![...e.childNodes].some(n => n.nodeType == 3 && n.data.trim()) || !e.getClientRects().length) continue;
        const style = getComputedStyle(e), svg = e.namespaceURI.endsWith('svg');
        const [a, b] = [light(svg ? style.fill : style.color), light(ground(e))].sort((x, y) => y - x);
        const ratio = (a + .05) / (b + .05);
        if (ratio < worst[0]) worst = [ratio, e.className + ' ' + e.textContent.slice(0, 40)];
      }
      return worst;
    })()"""
    for scheme in ("light", "dark"):
        browser.scheme(scheme)
        browser.open((run / "report.html").as_uri())
        ratio, where = browser.value(contrast)
        assert ratio >= 4.5, (scheme, ratio, where)
    browser.scheme("")


def test_tensorboard_opens_with_the_layout_and_the_pictures(browser: Browser, tensorboard: str) -> None:
    browser.open(f"{tensorboard}#custom_scalars")
    browser.until(f"{TEXT}.includes('AUROC, validation')")
    for title in ("training", "loss", "amnesia", "midpoint: decades", "input contract"):
        assert browser.value(f"{TEXT}.includes({json.dumps(title)})"), title
    browser.until(f"{DRAWN} > 2")
    browser.open("about:blank")
    browser.open(f"{tensorboard}#images")
    browser.until(f"{IMAGES} >= 3")
    assert all(
        address.startswith((tensorboard, "data:", "blob:")) for address in browser.requests() if ":" in address[:8]
    )
