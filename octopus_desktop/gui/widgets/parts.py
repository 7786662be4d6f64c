"""Small building blocks of pages: labels, headers, cards, empty states, banners, toasts, grids of facts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from PySide6.QtCore import QEvent, QObject, Qt, QTimer, Signal
from PySide6.QtGui import QGuiApplication, QHelpEvent, QResizeEvent
from PySide6.QtWidgets import (
    QFrame,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from octopus_desktop.gui.theme import GRID, Theme, set_role
from octopus_desktop.gui.widgets import formats

TOAST_MS = 6000
EMPTY_TEXT_PX = 480
TONE_ICONS = {"ok": "check-circle", "info": "info", "warning": "alert", "danger": "error", "neutral": "info"}


def label(text: str, style: str = "", *, wrap: bool = False, selectable: bool = False) -> QLabel:
    """A plain-text label. ``style``: "" | caption | muted | strong | heading | title | figure."""
    made = QLabel(text)
    made.setTextFormat(Qt.TextFormat.PlainText)
    made.setWordWrap(wrap)
    if style:
        made.setProperty("type", style)
    if selectable:
        made.setTextInteractionFlags(
            Qt.TextInteractionFlag.TextSelectableByMouse | Qt.TextInteractionFlag.TextSelectableByKeyboard
        )
    return made


def button(
    theme: Theme, text: str, clicked: Callable[[], object] | None = None, *, icon: str = "", kind: str = ""
) -> QPushButton:
    """``kind``: "" | primary | danger | quiet | link."""
    made = QPushButton(text)
    made.setAutoDefault(False)
    if kind:
        made.setProperty("kind", kind)
    if icon:
        role = {"primary": "on_accent", "danger": "danger", "link": "link"}.get(kind, "text")
        theme.bind_icon(made, icon, role)
    if clicked is not None:
        made.clicked.connect(lambda _checked=False: clicked())
    return made


def tool_button(theme: Theme, icon: str, name: str, clicked: Callable[[], object] | None = None) -> QToolButton:
    """A button with an icon only; ``name`` is its tooltip and what a screen reader says."""
    made = QToolButton()
    made.setToolTip(name)
    made.setAccessibleName(name)
    theme.bind_icon(made, icon, "muted")
    if clicked is not None:
        made.clicked.connect(lambda _checked=False: clicked())
    return made


class ElidedLabel(QLabel):
    """A one-line label that shortens its text to the room it has, and shows the whole on hover."""

    def __init__(self, text: str = "", style: str = "", mode: Qt.TextElideMode = Qt.TextElideMode.ElideRight) -> None:
        super().__init__()
        self._whole, self._mode = "", mode
        self.setTextFormat(Qt.TextFormat.PlainText)
        if style:
            self.setProperty("type", style)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.set_text(text)

    def set_text(self, text: str) -> None:
        self._whole = text
        self._elide()

    def whole(self) -> str:
        return self._whole

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._elide()

    def changeEvent(self, event: QEvent) -> None:
        super().changeEvent(event)
        if event.type() in (QEvent.Type.StyleChange, QEvent.Type.FontChange):
            self._elide()

    def _elide(self) -> None:
        short = self.fontMetrics().elidedText(self._whole, self._mode, max(0, self.width() - 2))
        if short != self.text():
            self.setText(short)
        self.setToolTip(self._whole if short != self._whole else "")


class IdLabel(QPushButton):
    """A short id that copies whole when it is clicked."""

    def __init__(self, theme: Theme, value: str = "", short: Callable[[str], str] = formats.short_id) -> None:
        super().__init__()
        self._value, self._short = "", short
        self.setProperty("kind", "link")
        self.setFont(theme.font("body", monospace=True))
        self.setLayoutDirection(Qt.LayoutDirection.RightToLeft)
        self.setSizePolicy(QSizePolicy.Policy.Maximum, QSizePolicy.Policy.Fixed)
        theme.bind_icon(self, "copy", "muted")
        self.clicked.connect(lambda _checked=False: QGuiApplication.clipboard().setText(self._value))
        self.set_value(value)

    def set_value(self, value: str) -> None:
        self._value = value
        self.setText(self._short(value) if value else formats.DASH)
        self.setToolTip(self.tr("{0}\nClick to copy").format(value) if value else "")
        self.setAccessibleName(self.tr("Copy {0}").format(value))
        self.setEnabled(bool(value))


class TimeLabel(QLabel):
    """An instant in the local zone; the exact UTC stamp on hover. ``relative``: "3 min ago", kept current."""

    def __init__(self, at: float = 0.0, relative: bool = False, style: str = "") -> None:
        super().__init__()
        self._at, self._relative = at, relative
        if style:
            self.setProperty("type", style)
        self.set_time(at)

    def set_time(self, at: float) -> None:
        self._at = at
        self.setText(formats.age(at) if self._relative else formats.instant(at))
        self.setToolTip(formats.instant_utc(at))

    def event(self, event: QEvent) -> bool:
        if isinstance(event, QHelpEvent) or event.type() == QEvent.Type.Show:
            self.set_time(self._at)
        return super().event(event)


class Card(QFrame):
    """A surface with an optional heading; add to ``body``. ``tools`` is the row at the heading's right."""

    def __init__(self, title: str = "", *, margin: int = 2 * GRID, spacing: int = GRID) -> None:
        super().__init__()
        self.setProperty("look", "card")
        self.body = QVBoxLayout(self)
        self.body.setContentsMargins(margin, margin, margin, margin)
        self.body.setSpacing(spacing)
        self.tools = QHBoxLayout()
        self.title: QLabel | None = None
        if title:
            row = QHBoxLayout()
            self.title = label(title, "heading")
            row.addWidget(self.title)
            row.addStretch(1)
            row.addLayout(self.tools)
            self.body.addLayout(row)


class Figure(Card):
    """A card with one number, what it counts, and a line of detail."""

    def __init__(self, caption: str) -> None:
        super().__init__(margin=2 * GRID, spacing=GRID // 2)
        self._caption = label(caption, "caption")
        self._value = ElidedLabel("", "figure")
        self._detail = ElidedLabel("", "caption")
        for part in (self._caption, self._value, self._detail):
            self.body.addWidget(part)

    def set_value(self, value: str, detail: str = "", tone: str = "") -> None:
        self._value.set_text(value)
        self._detail.set_text(detail)
        set_role(self._value, tone=tone)


class Facts(QWidget):
    """Names and values in two columns: ``set_facts([(name, text or widget), …])``."""

    def __init__(self, name_width: int = 128) -> None:
        super().__init__()
        self._grid = QGridLayout(self)
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setHorizontalSpacing(2 * GRID)
        self._grid.setVerticalSpacing(GRID)
        self._grid.setColumnMinimumWidth(0, name_width)
        self._grid.setColumnStretch(1, 1)

    def set_facts(self, facts: Sequence[tuple[str, str | QWidget]]) -> None:
        clear(self._grid)
        for row, (name, value) in enumerate(facts):
            self._grid.addWidget(label(name, "muted"), row, 0, Qt.AlignmentFlag.AlignTop)
            shown = label(value or formats.DASH, wrap=True, selectable=True) if isinstance(value, str) else value
            side = (
                Qt.AlignmentFlag(0)
                if isinstance(value, str)
                else Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignAbsolute
            )
            self._grid.addWidget(shown, row, 1, Qt.AlignmentFlag.AlignTop | side)


class EmptyState(QWidget):
    """What belongs here, and the next step as a button."""

    def __init__(
        self,
        theme: Theme,
        icon: str,
        title: str,
        text: str,
        action: str = "",
        clicked: Callable[[], object] | None = None,
    ) -> None:
        super().__init__()
        column = QVBoxLayout(self)
        column.setSpacing(GRID)
        column.setContentsMargins(3 * GRID, 3 * GRID, 3 * GRID, 3 * GRID)
        column.addStretch(2)
        picture = QLabel()
        picture.setAlignment(Qt.AlignmentFlag.AlignCenter)
        theme.bind_pixmap(picture, icon, 48, "muted")
        column.addWidget(picture)
        heading = label(title, "heading")
        heading.setAlignment(Qt.AlignmentFlag.AlignCenter)
        column.addWidget(heading)
        words = label(text, "muted", wrap=True)
        words.setAlignment(Qt.AlignmentFlag.AlignCenter)
        words.setFixedWidth(EMPTY_TEXT_PX)
        room = words.fontMetrics().boundingRect(0, 0, EMPTY_TEXT_PX, 1000, Qt.TextFlag.TextWordWrap, text)
        words.setMinimumHeight(room.height() + GRID)  # a centred item is given no height for its width
        column.addWidget(words, 0, Qt.AlignmentFlag.AlignHCenter)
        self.button: QPushButton | None = None
        if action:
            column.addSpacing(GRID)
            self.button = button(theme, action, clicked, kind="primary")
            column.addWidget(self.button, 0, Qt.AlignmentFlag.AlignHCenter)
        column.addStretch(3)


class Banner(QFrame):
    """A line across the window or page that says what is wrong and offers the next step."""

    acted = Signal()

    def __init__(self, theme: Theme) -> None:
        super().__init__()
        self._theme = theme
        self.setProperty("look", "banner")
        row = QHBoxLayout(self)
        row.setContentsMargins(2 * GRID, GRID, 2 * GRID, GRID)
        row.setSpacing(GRID)
        self._picture = QLabel()
        self._text = label("", "strong")
        self._detail = ElidedLabel("")
        self.button = button(theme, "", self.acted.emit)
        row.addWidget(self._picture)
        row.addWidget(self._text)
        row.addWidget(self._detail, 1)
        row.addWidget(self.button)
        self.hide()

    def tell(self, tone: str, text: str, detail: str = "", action: str = "") -> None:
        set_role(self, tone=tone)
        self._theme.bind_pixmap(self._picture, TONE_ICONS[tone], 20, tone)
        self._text.setText(text)
        self._detail.set_text(detail)
        self.button.setText(action)
        self.button.setVisible(bool(action))
        self.show()

    @property
    def text(self) -> str:
        return self._text.text()


class Toasts(QObject):
    """Short messages at the lower right of a window, one above the other, gone by themselves."""

    def __init__(self, theme: Theme, window: QWidget) -> None:
        super().__init__(window)
        self._theme, self._window = theme, window
        self._shown: list[QFrame] = []
        window.installEventFilter(self)

    def show(self, tone: str, text: str) -> None:
        frame = QFrame(self._window)
        frame.setProperty("look", "toast")
        frame.setProperty("tone", tone)
        row = QHBoxLayout(frame)
        row.setContentsMargins(2 * GRID, GRID, GRID, GRID)
        picture = QLabel()
        self._theme.bind_pixmap(picture, TONE_ICONS[tone], 20, tone)
        words = label(text, wrap=True)
        words.setMinimumWidth(240)
        words.setMaximumWidth(400)
        row.addWidget(picture)
        row.addWidget(words, 1)
        row.addWidget(tool_button(self._theme, "close", self.tr("Close"), lambda: self._drop(frame)))
        timer = QTimer(frame)
        timer.setSingleShot(True)
        timer.timeout.connect(lambda: self._drop(frame))
        timer.start(TOAST_MS)
        self._shown = [*self._shown, frame][-4:]
        frame.adjustSize()
        frame.show()
        self._place()

    def texts(self) -> list[str]:
        return [found.text() for frame in self._shown for found in frame.findChildren(QLabel) if found.text()]

    def eventFilter(self, _watched: QObject, event: QEvent) -> bool:
        if event.type() == QEvent.Type.Resize:
            self._place()
        return False

    def _drop(self, frame: QFrame) -> None:
        if frame in self._shown:
            self._shown.remove(frame)
            frame.hide()
            frame.deleteLater()
            self._place()

    def _place(self) -> None:
        bottom = self._window.height() - 5 * GRID
        for frame in reversed(self._shown):
            frame.move(self._window.width() - frame.width() - 2 * GRID, bottom - frame.height())
            frame.raise_()
            bottom -= frame.height() + GRID


class PageHeader(QWidget):
    """A page's title, one line that says what it answers, and its actions at the right."""

    def __init__(self, title: str, subtitle: str = "") -> None:
        super().__init__()
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(GRID)
        words = QVBoxLayout()
        words.setSpacing(0)
        words.addWidget(label(title, "title"))
        self._subtitle = ElidedLabel(subtitle, "muted")
        words.addWidget(self._subtitle)
        row.addLayout(words, 1)
        self.buttons = QHBoxLayout()
        self.buttons.setSpacing(GRID)
        row.addLayout(self.buttons)

    def set_subtitle(self, text: str) -> None:
        self._subtitle.set_text(text)


def page_layout(page: QWidget) -> QVBoxLayout:
    """The margins and gaps that every page shares."""
    page.setProperty("look", "page")
    page.setAttribute(Qt.WidgetAttribute.WA_StyledBackground)
    column = QVBoxLayout(page)
    column.setContentsMargins(3 * GRID, 2 * GRID, 3 * GRID, 2 * GRID)
    column.setSpacing(2 * GRID)
    return column


def scroll(content: QWidget) -> QScrollArea:
    """A frameless vertical scroll area."""
    area = QScrollArea()
    area.setWidgetResizable(True)
    area.setFrameShape(QFrame.Shape.NoFrame)
    area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    content.setProperty("look", "plain")
    area.setWidget(content)
    return area


def rule() -> QFrame:
    """A thin horizontal line."""
    made = QFrame()
    made.setProperty("look", "rule")
    return made


def clear(layout: QGridLayout | QHBoxLayout | QVBoxLayout) -> None:
    """Remove and delete everything in a layout."""
    while (item := layout.takeAt(0)) is not None:
        if (widget := item.widget()) is not None:
            widget.hide()
            widget.deleteLater()
        elif (inner := item.layout()) is not None:
            clear(inner)  # type: ignore[arg-type]
