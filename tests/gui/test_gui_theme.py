"""Colours can be read, and states differ by more than colour."""

from __future__ import annotations

import pytest
from PySide6.QtWidgets import QApplication, QPushButton
from pytestqt.qtbot import QtBot

from octopus_desktop.gui import icons
from octopus_desktop.gui.pages import pages
from octopus_desktop.gui.theme import DARK, GRAPHIC_ON_GROUND, LIGHT, TEXT_ON_GROUND, Theme, contrast
from octopus_desktop.gui.widgets import status

AA_TEXT, AA_GRAPHIC = 4.5, 3.0


@pytest.mark.parametrize(("scheme", "colours"), [("light", LIGHT), ("dark", DARK)])
def test_every_text_is_readable_on_every_ground_it_stands_on(scheme: str, colours: dict[str, str]) -> None:
    ratios = {pair: contrast(colours[pair[0]], colours[pair[1]]) for pair in TEXT_ON_GROUND}
    assert {pair: round(ratio, 2) for pair, ratio in ratios.items() if ratio < AA_TEXT} == {}


@pytest.mark.parametrize(("scheme", "colours"), [("light", LIGHT), ("dark", DARK)])
def test_borders_rings_and_lines_can_be_seen(scheme: str, colours: dict[str, str]) -> None:
    ratios = {pair: contrast(colours[pair[0]], colours[pair[1]]) for pair in GRAPHIC_ON_GROUND}
    assert {pair: round(ratio, 2) for pair, ratio in ratios.items() if ratio < AA_GRAPHIC} == {}


def test_both_schemes_name_the_same_colours() -> None:
    assert set(LIGHT) == set(DARK)


def test_contrast_is_that_of_wcag() -> None:
    assert contrast("#000000", "#FFFFFF") == pytest.approx(21.0)
    assert contrast("#777777", "#FFFFFF") == pytest.approx(4.48, abs=0.01)


def test_every_state_has_an_icon_and_states_of_a_kind_differ_without_colour() -> None:
    seen: dict[tuple[str, str, str], str] = {}
    for (kind, state), (tone, icon, text) in status._LOOKS.items():
        assert "currentColor" in icons.svg(icon), icon
        assert tone in ("ok", "info", "warning", "danger", "neutral")
        if kind not in ("finding", "level"):  # two names of one meaning
            assert seen.setdefault((kind, icon, text), state) == state
    assert all("currentColor" in icons.svg(spec.icon) for spec in pages())


def test_an_unknown_state_shows_its_own_word() -> None:
    assert status.look("run", "half_frozen").text == "Half frozen"


def test_choosing_a_scheme_repaints_what_is_bound(qtbot: QtBot, qapp: QApplication) -> None:
    theme = Theme(qapp, "light")
    button = QPushButton()
    qtbot.addWidget(button)
    theme.bind_icon(button, "check", "text")
    light = button.icon().pixmap(16, 16).toImage()
    with qtbot.waitSignal(theme.changed):
        theme.choose("dark")
    assert theme.dark and button.icon().pixmap(16, 16).toImage() != light
    assert qapp.palette().window().color().name().upper() == DARK["window"].upper()
    theme.deleteLater()
