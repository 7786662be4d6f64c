"""The window and the tray. Talks to the daemon's local API alone; holds no truth of its own.

Contract:

``context.py`` — ``Context`` (a plain object that ``app.py`` wires and every page receives): ``client``, ``store``,
``theme``, ``settings``, ``open(kind, id)`` (navigates: "run", "offer", "node", "dataset", "federation"), ``toast(level,
text)``, ``show_error(UserError)``.

``client/`` — ``Client``: one asyncio thread, signals out. ``call(method, request, then=None, failed=None)`` runs a
unary call of the local API (``method`` such as ``"Runs.Pause"``) and calls back on the GUI thread; ``stream(method,
request, each, ended=None) -> Subscription`` with ``.cancel()``. Signals ``connected``, ``disconnected(UserError)``,
``read_only(str)``.

``models/store.py`` — ``Store(QObject)``: the snapshot and what events made of it. Dicts of protobuf messages by id:
``federations``, ``nodes``, ``datasets``, ``offers``, ``runs``, ``policies``; ``daemon``; ``audit_tail``; signals
``reset``, ``changed(kind: str, id: str)``, ``removed(kind: str, id: str)``, ``notice(Notice)``, ``logs(LogPageReply)``.

``pages/<name>.py`` — ``class <Name>Page(QWidget)`` with ``__init__(self, context: Context)``, ``title``, ``icon``,
``show_item(id)`` where it makes sense. One registration in ``pages/__init__.py``. A page reads the store, calls the
client, and keeps no copy of either.

``theme.py`` — ``Theme`` with named colours for light and dark (``Theme.colour("accent")``…), spacing on the 8-pixel
grid, the type scale, ``changed`` signal. ``widgets/`` — what several pages use. ``commands.py`` — one registry for
menus, palette, tray and shortcuts. ``errors.py`` — the one place where a UserError becomes a banner, a
dialog or a toast.
"""
