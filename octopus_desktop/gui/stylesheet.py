"""The style sheet of every widget, from named colours and the type scale. Knows no widget of ours but by property.

Properties that widgets set: ``look`` (card | rail | page | banner | badge | toolbar | status | plain),
  ``tone`` (ok | info |
warning | danger | neutral), ``kind`` of buttons (primary | danger | quiet | link),
  ``type`` of labels (``text`` is their own property) (caption | muted |
heading | title | figure | strong).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from string import Template

_ICONS = Path(__file__).parent / "icons"

_SHEET = Template("""
QWidget { color: $text; }
QMainWindow, QDialog, QWizard, QWidget[look="page"] { background: $window; }
QToolTip { background: $raised; color: $text; border: 1px solid $control; padding: 4px 8px; }

QFrame[look="card"] { background: $surface; border: 1px solid $border; border-radius: 8px; }
QFrame[look="sunken"] { background: $sunken; border: 1px solid $border; border-radius: 6px; }
QFrame[look="rule"] { background: $border; border: none; max-height: 1px; min-height: 1px; }
QFrame[look="plain"], QScrollArea, QScrollArea > QWidget > QWidget[look="plain"] { background: transparent;
  border: none; }
QFrame[look="banner"] { border: none; border-radius: 0; }
QFrame[look="toast"] { border-radius: 8px; border: 1px solid $border; }
QFrame[look="palette"] { background: $raised; border: 1px solid $control; }
QFrame[look="row"] { background: transparent; border: 1px solid transparent; border-radius: 6px; }
QFrame[look="row"]:hover, QFrame[look="row"]:focus { background: $accent_soft; }
QFrame[look="row"]:focus { border-color: $focus; }
QFrame[tone="ok"] { background: $ok_soft; } QFrame[tone="info"] { background: $info_soft; }
QFrame[tone="warning"] { background: $warning_soft; } QFrame[tone="danger"] { background: $danger_soft; }
QFrame[tone="neutral"] { background: $neutral_soft; }
QFrame[look="toast"][tone="ok"] { border-color: $ok; } QFrame[look="toast"][tone="info"] { border-color: $info; }
QFrame[look="toast"][tone="warning"] { border-color: $warning; }
QFrame[look="toast"][tone="danger"] { border-color: $danger; }

QLabel { background: transparent; }
QLabel[type="caption"] { font-size: ${caption}px; color: $muted; }
QLabel[type="muted"] { color: $muted; }
QLabel[type="strong"] { font-weight: 600; }
QLabel[type="heading"] { font-size: ${heading}px; font-weight: 600; }
QLabel[type="title"] { font-size: ${title}px; font-weight: 600; }
QLabel[type="figure"] { font-size: ${figure}px; font-weight: 600; }
QLabel[tone="ok"], QLabel[tone="info"], QLabel[tone="warning"], QLabel[tone="danger"], QLabel[tone="neutral"] {
  background: transparent; }  /* a label is a frame too: its tone is for the words, not for the ground */
QLabel[tone="ok"] { color: $ok; } QLabel[tone="info"] { color: $info; } QLabel[tone="warning"] { color: $warning; }
QLabel[tone="danger"] { color: $danger; } QLabel[tone="neutral"] { color: $neutral; }

QPushButton, QToolButton { background: $raised; border: 1px solid $control; border-radius: 6px; padding: 5px 12px; }
QPushButton { min-height: 20px; }
QPushButton:hover, QToolButton:hover { background: $accent_soft; border-color: $accent; }
QPushButton:pressed, QToolButton:pressed, QToolButton:checked { background: $selection; }
QPushButton:focus, QToolButton:focus { border: 2px solid $focus; padding: 4px 11px; }
QPushButton:disabled, QToolButton:disabled { color: $disabled; border-color: $border; background: transparent; }
QPushButton[kind="primary"] { background: $accent; color: $on_accent; border-color: $accent; font-weight: 600; }
QPushButton[kind="primary"]:hover { background: $accent_hover; border-color: $accent_hover; }
QPushButton[kind="primary"]:focus { border: 2px solid $text; padding: 4px 11px; }
QPushButton[kind="primary"]:disabled { background: $neutral_soft; color: $disabled; border-color: $border; }
QPushButton[kind="danger"] { color: $danger; border-color: $danger; }
QPushButton[kind="danger"]:hover { background: $danger_soft; }
QPushButton[kind="danger"]:disabled { color: $disabled; border-color: $border; }
QPushButton[kind="quiet"], QToolButton { background: transparent; border-color: transparent; }
QToolButton { padding: 5px; } QToolButton:focus { padding: 4px; }
QPushButton[kind="link"] { background: transparent; border: none; color: $link; padding: 2px 4px; text-align: left; }
QPushButton[kind="link"]:hover { text-decoration: underline; }
QPushButton[kind="link"]:focus { border: 1px solid $focus; border-radius: 4px; padding: 1px 3px; }
QToolButton::menu-indicator, QPushButton::menu-indicator { image: none; width: 0; }

QLineEdit, QPlainTextEdit, QTextEdit, QSpinBox, QDoubleSpinBox, QComboBox, QDateTimeEdit {
  background: $surface; border: 1px solid $control; border-radius: 6px; padding: 5px 8px;
  selection-background-color: $accent;
  selection-color: $on_accent; }
QLineEdit, QComboBox, QSpinBox, QDoubleSpinBox, QDateTimeEdit { min-height: 20px; }
QLineEdit:focus, QPlainTextEdit:focus, QTextEdit:focus, QSpinBox:focus, QDoubleSpinBox:focus, QComboBox:focus,
QDateTimeEdit:focus { border: 2px solid $focus; padding: 4px 7px; }
QLineEdit:disabled, QSpinBox:disabled, QDoubleSpinBox:disabled, QComboBox:disabled { color: $disabled;
  background: $sunken;
  border-color: $border; }
QLineEdit[tone="danger"] { border-color: $danger; }
QAbstractSpinBox QLineEdit, QAbstractSpinBox QLineEdit:focus { border: none; padding: 0 0 0 6px; min-height: 0;
  background: transparent; }
QComboBox::drop-down { border: none; width: 24px; }
QComboBox::down-arrow { image: url($icons/control-down-$scheme.svg); width: 14px; height: 14px; }
QComboBox QAbstractItemView { background: $raised; border: 1px solid $control; selection-background-color: $selection;
  selection-color: $text; outline: none; padding: 4px; }
QSpinBox::up-button, QDoubleSpinBox::up-button, QDateTimeEdit::up-button { border: none; width: 20px;
  subcontrol-position: top right; }
QSpinBox::down-button, QDoubleSpinBox::down-button, QDateTimeEdit::down-button { border: none; width: 20px;
  subcontrol-position: bottom right; }
QSpinBox::up-arrow, QDoubleSpinBox::up-arrow, QDateTimeEdit::up-arrow { image: url($icons/control-up-$scheme.svg);
  width: 12px; height: 12px; }
QSpinBox::down-arrow, QDoubleSpinBox::down-arrow,
  QDateTimeEdit::down-arrow { image: url($icons/control-down-$scheme.svg); width: 12px;
  height: 12px; }

QCheckBox, QRadioButton { spacing: 8px; padding: 2px; background: transparent; }
QCheckBox::indicator, QRadioButton::indicator { width: 16px; height: 16px; border: 1px solid $control;
  background: $surface; }
QCheckBox::indicator { border-radius: 4px; } QRadioButton::indicator { border-radius: 9px; }
QCheckBox::indicator:focus, QRadioButton::indicator:focus, QCheckBox::indicator:hover, QRadioButton::indicator:hover {
  border: 1px solid $focus; }
QCheckBox:focus, QRadioButton:focus { border: 1px solid $focus; border-radius: 4px; padding: 1px; }
QCheckBox::indicator:checked { background: $accent; border-color: $accent;
  image: url($icons/control-check-$scheme.svg); }
QCheckBox::indicator:indeterminate { background: $accent; border-color: $accent;
  image: url($icons/control-dash-$scheme.svg); }
QRadioButton::indicator:checked { background: $accent; border-color: $accent;
  image: url($icons/control-radio-$scheme.svg); }
QCheckBox::indicator:disabled, QRadioButton::indicator:disabled { border-color: $border; background: $sunken; }

QTableView, QTreeView, QListView { background: $surface; alternate-background-color: $sunken;
  border: 1px solid $border;
  border-radius: 8px; outline: none; selection-background-color: $selection; selection-color: $text;
  gridline-color: $border; }
QTableView:focus, QTreeView:focus, QListView:focus { border-color: $focus; }
QTableView[look="plain"], QListView[look="plain"] { border: none; border-radius: 0; background: transparent; }
QTableView::item { padding: 0 8px; border-bottom: 1px solid $border; }
QTreeView::item, QListView::item { padding: 4px 6px; }
QTableView::item:selected, QTreeView::item:selected, QListView::item:selected { background: $selection;
  color: $text; }
QHeaderView { background: transparent; border: none; }
QHeaderView::section { background: $surface; color: $muted; border: none; border-bottom: 1px solid $border;
  padding: 6px 11px;
  font-size: ${caption}px; font-weight: 600; }
QHeaderView::section:hover { color: $text; }
QHeaderView::down-arrow { image: url($icons/control-down-$scheme.svg); width: 10px; height: 10px;
  subcontrol-origin: border; subcontrol-position: top center; }
QHeaderView::up-arrow { image: url($icons/control-up-$scheme.svg); width: 10px; height: 10px;
  subcontrol-origin: border; subcontrol-position: top center; }
QTableCornerButton::section { background: $surface; border: none; }

QTabWidget::pane { border: none; border-top: 1px solid $border; top: -1px; }
QTabBar { background: transparent; qproperty-drawBase: 0; }
QTabBar::tab { background: transparent; color: $muted; border: none; border-bottom: 2px solid transparent;
  padding: 8px 12px; }
QTabBar::tab:hover { color: $text; }
QTabBar::tab:selected { color: $text; border-bottom-color: $accent; font-weight: 600; }
QTabBar::tab:focus { color: $accent; }

QProgressBar { background: $neutral_soft; border: none; border-radius: 3px; min-height: 6px; max-height: 6px; }
QProgressBar::chunk { background: $accent; border-radius: 3px; }
QProgressBar[tone="ok"]::chunk { background: $ok; } QProgressBar[tone="warning"]::chunk { background: $warning; }
QProgressBar[tone="danger"]::chunk { background: $danger; }
  QProgressBar[tone="neutral"]::chunk { background: $neutral; }

QScrollBar { background: transparent; border: none; margin: 0; }
QScrollBar:vertical { width: 12px; } QScrollBar:horizontal { height: 12px; }
QScrollBar::handle { background: $border; border-radius: 4px; margin: 2px; }
QScrollBar::handle:hover { background: $control; }
QScrollBar::handle:vertical { min-height: 32px; } QScrollBar::handle:horizontal { min-width: 32px; }
QScrollBar::add-line, QScrollBar::sub-line, QScrollBar::add-page, QScrollBar::sub-page { background: none;
  border: none; height: 0; width: 0; }

QMenuBar { background: $window; border-bottom: 1px solid $border; padding: 2px 8px; }
QMenuBar::item { padding: 4px 8px; border-radius: 4px; background: transparent; }
QMenuBar::item:selected { background: $selection; }
QMenu { background: $raised; border: 1px solid $control; padding: 4px; }
QMenu::item { padding: 6px 28px 6px 12px; border-radius: 4px; }
QMenu::item:selected { background: $selection; }
QMenu::item:disabled { color: $disabled; }
QMenu::separator { height: 1px; background: $border; margin: 4px 8px; }
QMenu::icon { padding-left: 8px; }

QWidget[look="rail"] { background: $rail; border-right: 1px solid $border; }
QPushButton[kind="rail"] { background: transparent; border: none; border-left: 3px solid transparent;
  border-radius: 0;
  color: $text; text-align: left; padding: 8px 12px 8px 13px; }
QPushButton[kind="rail"]:hover { background: $neutral_soft; }
QPushButton[kind="rail"]:checked { background: $accent_soft; border-left: 3px solid $accent; color: $accent;
  font-weight: 600; }
QPushButton[kind="rail"]:focus { border: none; border-left: 3px solid $focus; padding: 8px 12px 8px 13px;
  background: $selection; }
QStatusBar { background: $rail; border-top: 1px solid $border; }
QStatusBar::item { border: none; }
QStatusBar QLabel, QStatusBar QPushButton { font-size: ${body}px; }
QStatusBar QPushButton { background: transparent; border: none; padding: 2px 8px; min-height: 18px;
  border-radius: 4px; }
QStatusBar QPushButton:hover { background: $selection; }
QStatusBar QPushButton:focus { border: 1px solid $focus; padding: 1px 7px; }
QSplitter::handle { background: transparent; } QSplitter::handle:hover { background: $border; }
QGroupBox { border: 1px solid $border; border-radius: 8px; margin-top: 12px; padding-top: 12px; font-weight: 600; }
QGroupBox::title { subcontrol-origin: margin; left: 12px; padding: 0 4px; }
""")


def style_sheet(colours: Mapping[str, str], type_scale: Mapping[str, int], scheme: str) -> str:
    """The whole sheet. ``scheme``: light | dark, which chooses the drawings inside controls."""
    sizes = {name: str(pixels) for name, pixels in type_scale.items()}
    return _SHEET.substitute({**colours, **sizes, "scheme": scheme, "icons": _ICONS.as_posix()})
