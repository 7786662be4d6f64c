"""What an administrator reads before deciding: a job in plain sentences, and what changed since the last version.

Pure. Findings are ``findings.find``'s. Knows no database and no window.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence

from octopus_desktop.jobs import encodings, returned
from octopus_desktop.jobs.manifest import DataNeed, JobManifest, RunConfig
from octopus_desktop.wire.pb.envelope_pb2 import Offer
from octopus_desktop.wire.pb.local_pb2 import FileChange, PolicyLine, SummaryLine

TOPICS = ("data", "hardware", "duration", "leaves", "privacy", "carrier", "silos", "strategy")
MOST_DIFF_CHARACTERS = 200_000
_KIND = {"table": "a table", "arrays": "arrays", "folder": "a folder of files"}


def diff(old: Mapping[str, bytes], new: Mapping[str, bytes]) -> list[FileChange]:
    """What differs between two packages' files, by path."""
    changes = []
    for path in sorted(set(old) | set(new)):
        before, after = old.get(path), new.get(path)
        if before == after:
            continue
        change = "added" if before is None else "removed" if after is None else "changed"
        changes.append(FileChange(path=path, change=change, unified_diff=_unified(path, before or b"", after or b"")))
    return changes


def summary(
    manifest: JobManifest,
    config: RunConfig,
    offer: Offer,
    fitting: Mapping[str, Sequence[str]],
    model_bytes: int | None = None,
    policy: Iterable[PolicyLine] = (),
) -> list[SummaryLine]:
    """One or more sentences for each of TOPICS.

    ``fitting``: the need's alias -> the silo's datasets that can serve it. ``model_bytes``: size of the global model
    where it is known. ``policy``: what the standing rules say, by topic; a topic of which they say nothing needs a
    decision.
    """
    texts = {
        "data": " ".join(_need(need, fitting.get(need.alias, ())) for need in manifest.data)
        or "It reads none of your data.",
        "hardware": _hardware(config),
        "duration": _duration(config),
        "leaves": _leaves(config, model_bytes),
        "privacy": _privacy(config),
        "carrier": "The federation chooses how messages travel."
        if config.carrier == "auto"
        else f"Messages travel by {config.carrier}.",
        "silos": _silos(offer),
        "strategy": _strategy(config),
    }
    said = {line.line: line for line in policy}
    return [
        SummaryLine(
            topic=topic,
            text=texts[topic],
            verdict=said[topic].verdict if topic in said else "ask",
            why=said[topic].why if topic in said else "",
        )
        for topic in TOPICS
    ]


def ways(config: RunConfig) -> dict[str, str]:
    """How a run is held, by topic, in the same sentences; a topic of which there is nothing to say is left out."""
    said = {
        "strategy": _strategy(config),
        "training": _training(config).strip(),
        "personal": _stays(config).strip(),
        "privacy": _privacy(config),
        "shared": _shared(config).strip(),
    }
    return {topic: text for topic, text in said.items() if text}


def size_text(count: float) -> str:
    """Bytes for people: 12 B, 3.4 KiB, 5.0 MiB."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def update_bytes(config: RunConfig, model_bytes: int) -> int:
    """About how large one encoded update is, with what the strategy has returned beside it."""
    share = encodings.share(config.encoding, config.encoding_parameters)
    return round(model_bytes * share * (1 + len(returned.returned(config.strategy))))


def _need(need: DataNeed, fitting: Sequence[str]) -> str:
    if need.kind == "table" and need.columns:
        shown = list(need.columns)[:12]
        more = f" and {len(need.columns) - len(shown)} more" if len(need.columns) > len(shown) else ""
        what = f"the columns {', '.join(shown)}{more} of a table"
    elif need.kind == "table":
        what = "all columns of a table"
    else:
        what = _KIND.get(need.kind, need.kind)
    rows = f" with at least {need.min_rows:,} rows" if need.min_rows > 1 else ""
    words = f" ({need.description.rstrip('.')})" if need.description else ""
    fits = f"Yours that fit: {', '.join(fitting)}." if fitting else "None of your registered datasets fits."
    return f"It reads {what}{rows} as {need.alias!r}{words}. {fits}"


def _hardware(config: RunConfig) -> str:
    wanted = config.resources
    gpus = "no GPU is needed" if not wanted.gpus else _count(wanted.gpus, "GPU")
    workers = _count(wanted.workers, "worker") if wanted.workers else "one worker per GPU, or one on the processor"
    memory = f", {size_text(wanted.memory_mib * 2**20)} of memory" if wanted.memory_mib else ""
    threads = _count(wanted.threads_per_worker, "thread")
    return f"It wants {workers} with {threads} each{memory}; {gpus}.{_training(config)}"


def _training(config: RunConfig) -> str:
    """What [training] changes, one sentence each, with a space before it."""
    how, said = config.training, []
    if how.precision != "float32":
        name = {"bf16": "bfloat16", "fp16": "float16 (on GPUs; a processor computes in float32)"}[how.precision]
        said.append(f"It computes in {name}, half as many bits as usual; the model and its update keep theirs.")
    if how.accumulate > 1:
        said.append(f"{_count(how.accumulate, 'batch', 'batches')} make one step of training.")
    if how.clip_norm:
        said.append(f"A gradient longer than {how.clip_norm:g} is cut to that length.")
    if how.compile:
        said.append("It compiles its model with your machine's C++ compiler, if there is one.")
    if how.parallel == "fsdp":
        said.append("The model is spread over the workers, so that it need not fit one of them.")
    if how.shares == "measured":
        said.append("Faster workers get more of the data, as measured: the same run again may differ in last digits.")
    if how.stall_s:
        said.append(f"A task without progress for {how.stall_s:g} seconds is ended.")
    return "".join(f" {sentence}" for sentence in said)


def _duration(config: RunConfig) -> str:
    hours = f"the author expects {config.resources.hours:g} hours" if config.resources.hours else "no estimate is given"
    deadline = config.round_deadline_s
    limit = f"{deadline / 3600:g} hours" if deadline >= 7200 else f"{deadline / 60:g} minutes"
    early = f", fewer when {_count(config.patience, 'round')} bring no better model" if config.patience else ""
    return f"It runs {_count(config.rounds, 'round')}{early}; {hours}. A round ends after {limit} at the latest."


def _leaves(config: RunConfig, model_bytes: int | None) -> str:
    encoded = encodings.told(config.encoding, config.encoding_parameters)
    plain = config.update == "weights" and not encoded
    what = "the trained weights" if plain else "the changes of the weights"
    form = f", {encoded}" if encoded else ""
    alike = ", and encoded alike" if encoded else ""
    more = returned.told(config.strategy)
    more = f"With them leaves {more}, as large as they are{alike}. " if more else ""
    one = update_bytes(config, model_bytes) if model_bytes else None
    cost = f"That is about {size_text(one)} a round and {size_text(one * config.rounds)} in all. " if one else ""
    return (
        f"After each round {what} leave your site{form}. {more}{cost}"
        f"Metrics and the number of examples leave with them; the runtime sends nothing else."
        f"{_shared(config)}{_stays(config)}"
    )


def _shared(config: RunConfig) -> str:
    if not config.share_metrics:
        return ""
    return " The server shows each silo's metrics of every round, by its name, to the other silos."


def _stays(config: RunConfig) -> str:
    """What is the silo's own; "" when nothing is."""
    said = ""
    if config.personal_layers:
        names = ", ".join(config.personal_layers)
        said += f" The layers {names} are trained for your site alone and stay there: in their place the values that "
        said += "came with the federation's model go back."
    if config.personal_steps or config.personal_epochs:
        much = (
            f"{_count(config.personal_steps, 'training step')} on your data"
            if config.personal_steps
            else f"{_count(config.personal_epochs, 'pass', 'passes')} over your data"
        )
        said += f" In each round the model is also fine-tuned by {much} and judged; only the metrics of that leave."
    if config.personal_keep:
        said += " The final model, as it is with what is your site's own, is kept here for you and never leaves."
    return said


def _privacy(config: RunConfig) -> str:
    if not config.privacy:
        return "No noise is added and nothing is clipped: updates leave as they were trained."
    settings = ", ".join(f"{key} = {value}" for key, value in sorted(config.privacy.items()))
    said = f"Updates pass the privacy filters before they leave: {settings}."
    if encodings.settings(config.encoding, config.encoding_parameters).get("feedback"):
        said += f" They filter what was trained; what {config.encoding} left out of earlier rounds is added after them."
    return said


def _silos(offer: Offer) -> str:
    others = list(offer.silos)
    if not others:
        return "The offer does not say which silos take part."
    return (
        f"Of {offer.federation or 'the federation'}, {_count(len(others), 'silo')} may take part: {', '.join(others)}."
    )


def _strategy(config: RunConfig) -> str:
    parameters = ", ".join(f"{key} = {value}" for key, value in sorted(config.strategy_parameters.items()))
    by = config.strategy
    if config.own_strategy:
        module, _, name = config.strategy.partition(":")
        by = f"the package's own code at the federation's server, {name} in code/{module.replace('.', '/')}.py"
    how = f"Updates are combined by {by}{f' ({parameters})' if parameters else ''}"
    if config.mode == "async":
        return f"{how}{_stale(config)}.{_bound(config)}{_begins(config)}{_chosen(config)}"
    drawn = f"each asks {_count(config.per_round, 'silo')} drawn at random; " if config.per_round else ""
    all_of_them = "every silo that is asked" if config.per_round else "every silo's answer"
    quorum = f"a round counts with {config.quorum} answers" if config.quorum else f"a round needs {all_of_them}"
    late = "; an answer that comes too late counts in the round after it" if config.late == "next" else ""
    return f"{how}, in rounds; {drawn}{quorum}{late}.{_bound(config)}{_begins(config)}{_chosen(config)}"


def _bound(config: RunConfig) -> str:
    if not config.most_norm:
        return ""
    return f" The server refuses an update that moves the model by more than {config.most_norm:g} (2-norm)."


def _stale(config: RunConfig) -> str:
    """How an asynchronous run takes updates that began from an older model."""
    given, said = config.strategy_parameters, ", as they come: no silo waits for another"
    if config.strategy == "fedbuff":
        said += f", and {_count(int(given.get('buffer', 2)), 'update')} together make a new model"
    full = config.strategy == "fedasync" and given.get("staleness", "constant") == "constant"
    said += "; one that began from an older model counts " + ("in full" if full else "less, the older it was")
    most = int(given.get("max_staleness", -1))
    return said + (f", and not at all when more than {_count(most, 'model')} came after it" if most >= 0 else "")


def _begins(config: RunConfig) -> str:
    if not config.first_model:
        return ""
    run, _, number = config.forked_from.partition(":")
    where = f"the model of round {number} of the run {run}" if number else "a model that was given"
    more = ", and with what the strategy had gathered until then" if config.first_slots else ""
    return f" It begins with {where}{more} (SHA-256 {config.first_model[:12]}…), not with a fresh one."


def _chosen(config: RunConfig) -> str:
    way, _, metric = config.best.partition(" ")
    chosen = (
        f" The model with the {'highest' if way == 'max' else 'lowest'} {metric} is kept as the best." if way else ""
    )
    return chosen + (" The server evaluates each round's model on data of its own as well." if config.central else "")


def _count(number: int, noun: str, nouns: str = "") -> str:
    return f"{number:,} {noun if number == 1 else nouns or f'{noun}s'}"


def _unified(path: str, before: bytes, after: bytes) -> str:
    try:
        old, new = before.decode(), after.decode()
        if "\0" in old or "\0" in new:
            raise ValueError("binary")
    except ValueError:
        return f"Binary file: {size_text(len(before))} before, {size_text(len(after))} now.\n"
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), f"before/{path}", f"now/{path}", lineterm="", n=3)
    text = "\n".join(lines)
    if not text:
        return "Only line ends differ.\n"
    if len(text) > MOST_DIFF_CHARACTERS:
        return text[:MOST_DIFF_CHARACTERS] + "\n… cut off here; read the file itself.\n"
    return text + "\n"
