"""Every page of the book in a real browser, as wide as a laptop and as a phone, light and dark."""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from built import BOOK, SLIDES, pages_of
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from sparsebert.chapters.rendering import find_browser

WIDTHS = (1280, 390)

OPEN_FOLDS = """async () => {
    document.querySelectorAll('details').forEach(fold => fold.open = true);
    document.querySelectorAll('.toggle-hidden > .admonition-title').forEach(title => title.click());
    await new Promise(done => setTimeout(done, 500));
    await Promise.all(document.getAnimations().map(moving => moving.finished));
}"""


class Silent(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="session")
def site() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=BOOK)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=find_browser())


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("page", pages_of(BOOK))
def test_a_page_has_no_fault(browser: Browser, site: str, page: str, width: int, theme: str) -> None:
    with browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme) as context:
        tab = context.new_page()
        faults = heard_from(tab, site)
        tab.goto(site + page, wait_until="networkidle")
        assert tab.locator("html").get_attribute("data-theme") == theme
        tab.evaluate(OPEN_FOLDS)
        faults += wider_than_the_window(tab) + inaccessible(tab, width) + unreadable_figures(tab)
    assert not faults, "\n".join(faults)


def test_slides_have_no_fault_and_fit_the_screen(browser: Browser) -> None:
    with browser.new_context(viewport={"width": 1280, "height": 720}) as context:
        tab = context.new_page()
        faults = heard_from(tab, SLIDES.as_uri())
        tab.goto(f"{SLIDES.as_uri()}/lecture.html", wait_until="networkidle")
        for slide in range(tab.evaluate("Reveal.getTotalSlides()")):
            tab.evaluate(f"Reveal.slide({slide})")
            if tab.evaluate(OVERFLOWS):
                faults.append(f"slide {slide + 1} does not fit")
            images = tab.locator("section.present img")
            faults += [f"slide {slide + 1} has an image without alt text"] * sum(
                not (images.nth(place).get_attribute("alt") or "").strip() for place in range(images.count())
            )
    assert not faults, "\n".join(faults)


OVERFLOWS = """() => {
    const slide = document.querySelector('.slides > section.present > section.present');
    const parts = [...slide.children].filter(part => part.tagName != 'ASIDE');
    const bottom = Math.max(...parts.map(part => part.getBoundingClientRect().bottom));
    const pictures = [...slide.querySelectorAll('img')].map(image => image.getBoundingClientRect().height);
    return bottom > innerHeight || pictures.some(height => height < 200);
}"""


def heard_from(tab: Page, site: str) -> list[str]:
    """A list that will have the errors on the console, and the requests that fail or leave this machine."""
    faults = []

    def hear(event: str, wrong: Callable[[Any], bool], told: Callable[[Any], str]) -> None:
        tab.on(
            event, lambda happened: faults.append(f"{event}: {told(happened)}") if wrong(happened) else None
        )

    hear("pageerror", lambda error: True, str)
    hear("console", lambda said: said.type == "error", lambda said: f"{said.text} {said.location['url']}")
    hear("request", lambda sent: not sent.url.startswith((site, "data:", "blob:")), lambda sent: sent.url)
    hear("response", lambda got: got.status >= 400, lambda got: got.url)
    return faults


def wider_than_the_window(tab: Page) -> list[str]:
    """If a page scrolls sideways, the parts of it that stick out and don't scroll by themselves."""
    return tab.evaluate("""() => {
        const width = document.documentElement.clientWidth;
        if (document.documentElement.scrollWidth <= width) return [];
        const scrolls = part => part && (getComputedStyle(part).overflowX != 'visible' || inside(part));
        const inside = part => scrolls(part.parentElement);
        const wide = part => part.getBoundingClientRect().right > width && !inside(part);
        const parts = [...document.querySelectorAll('main *')].filter(wide);
        return ['scrolls sideways', ...parts.map(part => 'too wide: ' + part.outerHTML.slice(0, 150))];
    }""")


def inaccessible(tab: Page, width: int) -> list[str]:
    """What axe-core finds serious or critical; colours, which take it most of its time, at one width only."""
    options = {
        "resultTypes": ["violations"],
        "preload": False,  # it would ask for imported style sheets at the wrong address
        "rules": {"color-contrast": {"enabled": width == max(WIDTHS)}},
    }
    return [
        f"{fault['id']}: {node['html'][:200]} {node['failureSummary'][:300]}"
        for fault in Axe().run(tab, options=options).response["violations"]
        if fault["impact"] in ("serious", "critical")
        for node in fault["nodes"]
    ]


def unreadable_figures(tab: Page) -> list[str]:
    """Figures whose ink hardly differs from what is behind it, and those without words."""
    page, *figures = tab.evaluate("""() => [
        getComputedStyle(document.body).backgroundColor,
        ...[...document.querySelectorAll('main img')].map(
            figure => [figure.src, figure.alt, getComputedStyle(figure).filter]
        )
    ]""")
    faults = []
    for src, alt, changed in figures:
        inline = src.partition("base64,")[2]
        source = io.BytesIO(base64.b64decode(inline)) if inline else BOOK / src.split("/", 3)[3]
        file = Image.open(source).convert("RGBA")
        shown = Image.alpha_composite(Image.new("RGBA", file.size, page), file)
        if changed != "none" or contrast_of(shown) < 7:
            faults.append(f"hard to read: {src}")
        if not alt.strip():
            faults.append(f"without alt text: {src}")
    return faults


def contrast_of(figure: Image.Image) -> float:
    """Contrast of the ink, the 0.2 % of pixels that stand out most, to the commonest colour, as in WCAG."""
    counts, colours = map(np.array, zip(*figure.convert("RGB").getcolors(2**24), strict=True))
    behind, light = luminance(colours[counts.argmax()]), luminance(colours)
    ratio = (np.maximum(light, behind) + 0.05) / (np.minimum(light, behind) + 0.05)
    return float(np.quantile(np.repeat(ratio, counts), 0.998))


def luminance(colours: np.ndarray) -> np.ndarray:
    part = colours / 255
    linear = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]
