"""job.toml's mistakes are named with line, column, key and what was probably meant."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octopus_desktop.jobs.manifest import Resources, RunConfig, Training
from octopus_desktop.jobs.toml import apply_overrides, examine, parse
from octopus_desktop.jobs.toml_places import places
from octopus_desktop.wire.errors import UserError

TOML = """\
[job]
name = "heart"
version = "1.0.0"
trainer = "trainer:HeartTrainer"
purpose = "Say who is ill."

[[data]]
alias = "patients"
min_rows = 50
columns = { age = "number", "max hr" = "integer" }

[[data]]
alias = "scans"
kind = "folder"

[resources]
workers = 2
hours = 2

[run]
rounds = 30
seed = 7
round_deadline_s = 600

[strategy]
name = "fedavgm"
momentum = 0.9

[communication]
carrier = "grpc"

[privacy]
clip = 1.0

[hyperparameters]
lr = 0.1
layers = 3
wide = true
"""


def test_a_good_file_becomes_a_manifest() -> None:
    manifest = parse(TOML)
    assert (manifest.name, manifest.version, manifest.trainer) == ("heart", "1.0.0", "trainer:HeartTrainer")
    assert [need.alias for need in manifest.data] == ["patients", "scans"]
    assert manifest.data[0].columns == {"age": "number", "max hr": "integer"}
    config = manifest.config
    assert (config.rounds, config.seed, config.round_deadline_s, config.carrier) == (30, 7, 600.0, "grpc")
    assert (config.strategy, config.strategy_parameters) == ("fedavgm", {"momentum": 0.9})
    assert config.hyperparameters == {"lr": 0.1, "layers": 3, "wide": True} and config.privacy == {"clip": 1.0}
    assert config.resources == Resources(workers=2, hours=2.0)
    assert RunConfig.from_dict(json.loads(config.to_json())).digest() == config.digest()


def test_a_whole_number_of_seconds_or_hours_is_the_same_configuration_as_its_decimal() -> None:
    decimal = TOML.replace("= 600", "= 600.0").replace("hours = 2", "hours = 2.0")
    assert parse(decimal).config.digest() == parse(TOML).config.digest()


MISTAKES = [  # what is replaced, by what, where it is told, words in the error
    ("rounds = 30", "ronds = 30", (21, 1), "run.ronds", "'rounds'"),
    ("rounds = 30", 'rounds = "30"', (21, 1), "run.rounds", "rounds = 30"),
    ("rounds = 30", "rounds = true", (21, 1), "run.rounds", "whole number"),
    ("rounds = 30", "rounds = 3.5", (21, 1), "run.rounds", "whole number"),
    ("rounds = 30", "rounds = 0", (21, 1), "run.rounds", "at least 1"),
    ("rounds = 30", "rounds = 99999999999999999999", (21, 1), "run.rounds", "64 bits"),
    ("rounds = 30", "rounds = 2026-01-01", (21, 1), "run.rounds", "a date or time"),
    ("rounds = 30", "rounds = [1]", (21, 1), "run.rounds", "a list"),
    ("rounds = 30", "rounds = ", (21, 10), "", "Correct this line: rounds ="),
    ("rounds = 30", "rounds = 30\nrounds = 3", (22, 11), "", "Cannot overwrite"),
    ("round_deadline_s = 600", "round_deadline_s = 0", (23, 1), "run.round_deadline_s", "above 0"),
    ("seed = 7", "seed = -1", (22, 1), "run.seed", "out of range"),
    ("seed = 7", 'mode = "synchron"', (22, 1), "run.mode", "'sync'"),
    ("seed = 7", 'encoding = "fp-16"', (22, 1), "run.encoding", "'fp16'"),
    ("seed = 7", 'name = "x"', (22, 1), "run.name", "[job]"),
    ("[strategy]", "[encoding]\nblock = 64\n[strategy]", (26, 1), "encoding.block", "belongs to int8, int4"),
    ("[strategy]", 'encoding = "int8"\n[encoding]\nblock = 100\n[strategy]', (27, 1), "encoding.block", "64, 128"),
    ("[strategy]", 'encoding = "int8"\n[encoding]\nblok = 64\n[strategy]', (27, 1), "encoding.blok", "'block'"),
    ("[strategy]", 'encoding = "topk"\n[encoding]\nfraction = 0.6\n[strategy]', (27, 1), "encoding.fraction", "0.5"),
    ("[strategy]", 'encoding = "topk"\n[encoding]\nfraction = 0\n[strategy]', (27, 1), "encoding.fraction", "above 0"),
    ("[strategy]", 'encoding = "topk"\n[encoding]\nvalues = 16\n[strategy]', (27, 1), "encoding.values", "'fp32'"),
    ("[strategy]", 'encoding = "int4"\n[encoding]\nfeedback = 1\n[strategy]', (27, 1), "encoding.feedback", "true"),
    ("[strategy]", 'encoding = "fp16"\n[encoding]\nzzz = 1\n[strategy]', (27, 1), "encoding.zzz", "Known here: none"),
    ("[strategy]", '[training]\nprecision = "bf-16"\n[strategy]', (26, 1), "training.precision", "'bf16'"),
    ("[strategy]", "[training]\nprecison = 1\n[strategy]", (26, 1), "training.precison", "'precision'"),
    ("[strategy]", "[training]\naccumulate = 0\n[strategy]", (26, 1), "training.accumulate", "at least 1"),
    ("[strategy]", "[training]\nclip_norm = -1\n[strategy]", (26, 1), "training.clip_norm", "out of range"),
    ("[strategy]", "[training]\ncompile = 1\n[strategy]", (26, 1), "training.compile", "compile = true"),
    ("[strategy]", '[training]\nshares = "fast"\n[strategy]', (26, 1), "training.shares", "measured"),
    ("seed = 7", "accumulate = 2", (22, 1), "run.accumulate", "[training]"),
    ("[run]", "[runs]", (20, 1), "runs", "'run'"),
    ("[run]", "[zzz]", (20, 1), "zzz", "Known here"),
    ('name = "heart"', "", (1, 1), "job.name", "missing"),
    ('name = "heart"', 'name = "a b"', (2, 1), "job.name", "64 letters"),
    ('name = "heart"', "name = 3", (2, 1), "job.name", 'name = "3"'),
    ('"trainer:HeartTrainer"', '"trainer.HeartTrainer"', (4, 1), "job.trainer", "module:Class"),
    ('"trainer:HeartTrainer"', '"../x:T"', (4, 1), "job.trainer", "module:Class"),
    ('purpose = "Say who is ill."', 'requirements = "scipy"', (5, 1), "job.requirements", "list of texts"),
    ('purpose = "Say who is ill."', f'purpose = "{"x" * 2001}"', (5, 1), "job.purpose", "2001 characters"),
    ('age = "number"', 'age = "numbr"', (10, 13), "data[0].columns.age", "'number'"),
    ('"max hr" = "integer"', '"max hr" = 3', (10, 29), "data[0].columns.'max hr'", "number 3"),
    ('alias = "scans"', 'alias = "patients"', (13, 1), "data[1].alias", "twice"),
    ('alias = "scans"', 'allias = "scans"', (13, 1), "data[1].allias", "'alias'"),
    ('kind = "folder"', 'kind = "files"', (14, 1), "data[1].kind", "folder"),
    ("[strategy]", "strategy = 3\n[strategi]", (25, 1), "run.strategy", "no such key"),
    ("momentum = 0.9", "parameters = { a = 1 }", (27, 1), "strategy.parameters", "a table"),
    ("lr = 0.1", "lr = nan", (36, 1), "hyperparameters.lr", "finite"),
    ("lr = 0.1", "lr = [1]", (36, 1), "hyperparameters.lr", "a list"),
    ('carrier = "grpc"', 'carrier = "http"', (30, 1), "communication.carrier", "mqtt"),
    ("workers = 2", "worker = 2", (17, 1), "resources.worker", "'workers'"),
]


@pytest.mark.parametrize(("old", "new", "place", "key", "words"), MISTAKES)
def test_a_mistake_is_told_with_its_place(old: str, new: str, place: tuple[int, int], key: str, words: str) -> None:
    assert old in TOML
    text = TOML.replace(old, new, 1)
    manifest, mistakes = examine(text)
    assert manifest is None
    first = mistakes[0]
    assert ((first.line, first.column), first.key) == (place, key)
    assert words in f"{first.text} {first.advice}"
    with pytest.raises(UserError) as told:
        parse(text)
    assert told.value.code == "OCT-JOB-TOML" and f"line {place[0]}, column {place[1]}" in told.value.what


def test_all_mistakes_are_told_at_once_in_the_order_of_lines() -> None:
    text = TOML.replace("rounds = 30", "ronds = 30").replace("workers = 2", "workers = -2")
    _, mistakes = examine(text)
    assert [m.key for m in mistakes] == ["resources.workers", "run.ronds"]
    with pytest.raises(UserError) as told:
        parse(text)
    assert "run.ronds" in told.value.why


@pytest.mark.parametrize("text", ["", "x = 1", "[job]", "data = 3\n[job]", "[data]\nalias='x'\n[job]", "\ufeff[job]"])
def test_what_is_not_a_job_at_all_is_told(text: str) -> None:
    with pytest.raises(UserError) as told:
        parse(text)
    assert told.value.code == "OCT-JOB-TOML" and told.value.next_step


def test_a_huge_or_deeply_nested_file_is_refused() -> None:
    for text in ("#" * 300_000, "x = " + "[" * 20_000):
        with pytest.raises(UserError) as told:
            parse(text)
        assert told.value.code == "OCT-JOB-TOML"


def test_strategies_that_are_not_known_are_told_where_the_caller_knows_them() -> None:
    with pytest.raises(UserError) as told:
        parse(TOML, strategies=("fedavg", "fedadam"))
    assert "line 26" in told.value.what and "fedavg" in told.value.next_step


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200))
def test_arbitrary_text_gives_a_user_error_or_a_manifest(text: str) -> None:
    manifest, mistakes = examine("[job]\nname='a'\nversion='1'\ntrainer='a:B'\n" + text)
    assert (manifest is None) == bool(mistakes)


_KEYS = st.text(alphabet="abz09_-", min_size=1, max_size=4)
_ANY_KEY = st.one_of(_KEYS, st.text(alphabet="a .=[]\"'\\é\n#", max_size=4))
_VALUES = st.recursive(
    st.one_of(st.integers(-5, 5), st.booleans(), st.text(alphabet="a[]{}#='\"\\,\n", max_size=6), st.floats(-1, 1)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_ANY_KEY, inner, max_size=3)),
    max_leaves=8,
)


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[ # comment ]\n" + ",\n".join(_toml(v) for v in value) + " ]"
    return json.dumps(value)


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(_ANY_KEY, _VALUES, max_size=4), st.lists(st.dictionaries(_KEYS, _VALUES, max_size=2), max_size=3)
)
def test_every_key_of_any_document_is_placed_where_it_stands(table: dict[str, object], tables: list[object]) -> None:
    lines = ["# [not] = 'a table'"]
    expected = {}
    for key, value in table.items():
        lines.append(f"  {json.dumps(key)}={_toml(value)}")
        expected[(key,)] = (sum(line.count("\n") + 1 for line in lines[:-1]) + 1, 3)
    for index, entries in enumerate(tables):
        lines.append("[[list.of]] # tables")
        for key, value in dict(entries).items():  # type: ignore[call-overload]
            lines.append(f"{key} = {_toml(value)}")
            expected[("list", "of", index, key)] = (sum(line.count("\n") + 1 for line in lines[:-1]) + 1, 1)
    text = "\n".join(lines)
    try:
        value = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return  # such as a top-level key "list" beside [[list.of]], or a line break in a key
    found = places(text)
    assert {path: found[path] for path in expected} == expected
    assert set(_paths(value)) <= set(found) | {("list",), ("list", "of")}


def _paths(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [p for key, item in items for p in [(*path, key), *_paths(item, (*path, key))]]


def test_literal_and_multi_line_texts_do_not_confuse_places() -> None:
    text = "a = '''\n[x]\n'''\nb = \"\"\"q\\\"\"\"\"\nc.d = 'x' # [y]\n[t.u]\n'k k' = [ [1, 2], { z = 3 } ]\n"
    assert tomllib.loads(text)["t"]["u"]["k k"][1]["z"] == 3
    found = places(text)
    assert (found[("b",)], found[("c", "d")], found[("t", "u", "k k", 1, "z")]) == ((4, 1), (5, 1), (7, 21))


# overrides

CONFIG = parse(TOML).config


def test_overrides_are_laid_over_the_jobs_own_words() -> None:
    new = apply_overrides(CONFIG, {"rounds": 3, "run": {"seed": 9}, "carrier": "mqtt", "hyperparameters": {"lr": 1}})
    expected = replace(CONFIG, rounds=3, seed=9, carrier="mqtt", hyperparameters={**CONFIG.hyperparameters, "lr": 1})
    assert new == expected
    assert apply_overrides(CONFIG, {}) == CONFIG


def test_another_strategy_forgets_the_parameters_of_the_old_one() -> None:
    assert apply_overrides(CONFIG, {"strategy": "fedavg"}).strategy_parameters == {}
    assert apply_overrides(CONFIG, {"strategy": {"momentum": 0.5}}).strategy_parameters == {"momentum": 0.5}


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"ronds": 3}, "'rounds'"),
        ({"run": {"ronds": 3}}, "'rounds'"),
        ({"run": 3}, "table"),
        ({"run": 3, "rounds": 4}, "table"),
        ({"rounds": "3"}, "rounds = 3"),
        ({"rounds": True}, "whole number"),
        ({"rounds": None}, "whole number"),
        ({"strategy": 3}, "table"),
        ({"strategy": {"name": 3}}, "text in quotes"),
        ({"hyperparameters": {"lr": float("inf")}}, "finite"),
        ({"hyperparameters": {"lr": None}}, "null"),
        ({"job": {"name": "x"}}, "no such table"),
        ({"resources": {"gpus": -1}}, "out of range"),
    ],
)
def test_a_bad_override_is_told(overrides: dict[str, object], words: str) -> None:
    with pytest.raises(UserError) as told:
        apply_overrides(CONFIG, overrides)
    assert told.value.code == "OCT-CONFIG-INVALID"
    assert words in f"{told.value.what} {told.value.why} {told.value.next_step}"


# training


def test_the_training_table_is_kept_and_older_configurations_keep_their_digest() -> None:
    text = TOML.replace("[strategy]", '[training]\nprecision = "bf16"\nclip_norm = 1\ncompile = true\n[strategy]')
    config = parse(text).config
    assert config.training == Training(precision="bf16", clip_norm=1.0, compile=True)
    assert json.loads(config.to_json())["training"] == {"clip_norm": 1.0, "compile": True, "precision": "bf16"}
    assert type(config).from_dict(json.loads(config.to_json())) == config
    assert "training" not in json.loads(parse(TOML).config.to_json())
    back = apply_overrides(config, {"training": {"compile": False, "accumulate": 4}}).training
    assert back == Training(precision="bf16", clip_norm=1.0, accumulate=4)


# encodings


def test_an_encodings_parameters_are_kept_and_older_configurations_keep_their_digest() -> None:
    text = TOML.replace("[strategy]", 'encoding = "topk"\n[encoding]\nfraction = 0.05\nfeedback = false\n[strategy]')
    config = parse(text).config
    assert (config.encoding, config.encoding_parameters) == ("topk", {"fraction": 0.05, "feedback": False})
    assert type(config).from_dict(json.loads(config.to_json())) == config
    assert "encoding_parameters" not in parse(TOML).config.to_json()


@pytest.mark.parametrize(
    ("overrides", "encoding", "parameters"),
    [
        ({"run": {"encoding": "int8"}}, "int8", {}),
        ({"encoding": "int8"}, "int8", {}),
        ({"encoding": {"fraction": 0.1}}, "topk", {"fraction": 0.1}),
        ({"run": {"encoding": "int4"}, "encoding": {"block": 128}}, "int4", {"block": 128}),
        ({"rounds": 3}, "topk", {"fraction": 0.05}),
    ],
)
def test_a_coordinator_may_choose_another_encoding(
    overrides: dict[str, Any], encoding: str, parameters: dict[str, Any]
) -> None:
    config = RunConfig(encoding="topk", encoding_parameters={"fraction": 0.05})
    chosen = apply_overrides(config, overrides)
    assert (chosen.encoding, chosen.encoding_parameters) == (encoding, parameters)


@pytest.mark.parametrize("wish", [{"encoding": {"block": 64}}, {"encoding": 3}, {"encoding": "zip"}])
def test_a_coordinators_impossible_encoding_is_refused(wish: dict[str, Any]) -> None:
    with pytest.raises(UserError) as told:
        apply_overrides(RunConfig(), wish)
    assert told.value.code == "OCT-CONFIG-INVALID" and "encoding" in told.value.what


@pytest.mark.parametrize(
    ("wish", "told"),
    [
        ({"finetune_epochs": 1, "finetune_steps": 2}, "there are finetune_steps as well"),
        ({"keep": True}, "no silo's model would be its own"),
        ({"finetune_epochs": -1}, "out of range"),
    ],
)
def test_personal_settings_that_cannot_be_meant_are_refused(wish: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError) as refused:
        apply_overrides(RunConfig(), {"personal": wish})
    assert refused.value.code == "OCT-CONFIG-INVALID" and told in refused.value.what
    config = apply_overrides(RunConfig(), {"personal": {"finetune_epochs": 2, "keep": True}})
    assert (config.personal_epochs, config.personal_keep) == (2, True)
    assert RunConfig.from_dict(json.loads(config.to_json())) == config


def test_keys_that_came_later_change_no_digest_until_they_say_something() -> None:
    first = {
        "rounds", "seed", "mode", "quorum", "round_deadline_s", "lease_s", "strategy", "strategy_parameters", "update",
        "encoding", "carrier", "hyperparameters", "privacy", "resources",
    }  # fmt: skip
    assert set(RunConfig().to_dict()) == first
    wishes: dict[str, Any] = {
        "run": {"per_round": 2, "best": "min eval/loss", "patience": 3, "min_delta": 1, "late": "next"},
        "personal": {"layers": ["head.*", "*.bn*"], "finetune_steps": 4},
        "evaluation": {"central": True, "share": True},
    }
    config = apply_overrides(RunConfig(update="difference"), wishes)
    assert set(config.to_dict()) == first | {
        "per_round", "best", "patience", "min_delta", "late", "personal_layers", "personal_steps", "central",
        "share_metrics",
    }  # fmt: skip
    assert RunConfig.from_dict(json.loads(config.to_json())) == config
    assert config.personal_layers == ("head.*", "*.bn*")


@pytest.mark.parametrize(
    ("lines", "key", "advice"),
    [
        ('[run]\nbest = "eval/accuracy"', "run.best", 'It is "max" or "min" and a metric'),
        ('[run]\nbest = "max train/loss"', "run.best", 'It is "max" or "min" and a metric'),
        ("[run]\npatience = 3", "run.patience", 'Add best = "max eval/accuracy"'),
        ('[run]\nlate = "keep"', "run.late", "Choose one of: drop, next"),
        ('[personal]\nlayers = "head"', "personal.layers", 'Write it like ["head.*"]'),
        ("[evaluation]\ncentral = 1", "evaluation.central", "Write central = true"),
    ],
)
def test_what_is_off_with_evaluation_and_personal_layers_is_named(lines: str, key: str, advice: str) -> None:
    manifest, (mistake,) = examine('[job]\nname = "a"\nversion = "1"\ntrainer = "t:T"\n' + lines + "\n")
    assert manifest is None
    assert mistake.key == key and mistake.line == 6
    assert advice in mistake.advice


def test_a_strategy_of_the_packages_own_is_named_as_the_trainer_is() -> None:
    config = parse(TOML.replace('"fedavgm"', '"deep.strategy:Mine"'), strategies=("fedavg", "fedavgm")).config
    assert (config.strategy, config.own_strategy) == ("deep.strategy:Mine", True)
    assert config.strategy_parameters == {"momentum": 0.9}
    assert RunConfig.from_dict(config.to_dict()) == config
    assert not RunConfig().own_strategy
    changed = apply_overrides(config, {"strategy": "other:Mine"}, strategies=("fedavg",))
    assert (changed.strategy, changed.strategy_parameters) == ("other:Mine", {})
    with pytest.raises(UserError, match="'Mine:' is not allowed"):
        parse(TOML.replace('"fedavgm"', '"Mine:"'), strategies=("fedavg",))
