"""Rounds of FedAvg as a Flower server does them, by Flower's own code alone; run by a runtime that has flwr.

``python flower_rounds.py APP FIRST OUT ROUNDS LR DATA…``: APP is the folder of the app, FIRST and OUT are safetensors
files, DATA one file a silo. Imports nothing of ours.
"""

import importlib
import sys
import tomllib
from pathlib import Path

import safetensors.torch
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.task_identity import TaskIdentity


def main(app_folder, first, out, rounds, rate, *data):
    torch.set_num_threads(1)
    sys.path.insert(0, app_folder)
    settings = tomllib.loads(Path(app_folder, "pyproject.toml").read_text())["tool"]["flwr"]["app"]
    module, _, name = settings["components"]["clientapp"].partition(":")
    app = getattr(importlib.import_module(module), name)
    config = dict(settings["config"])
    config["optimiser.momentum"] = config.pop("optimiser")["momentum"]
    config["lr"] = float(rate)
    arrays = ArrayRecord(safetensors.torch.load_file(first))
    strategy = FedAvg()
    for number in range(1, int(rounds) + 1):
        replies = []
        for node, path in enumerate(data, 1):
            content = RecordDict(
                {"arrays": arrays, "config": ConfigRecord({"lr": float(rate), "server-round": number})}
            )
            TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, node
            message = Message(content, dst_node_id=node, message_type="train", ttl=60.0, group_id=str(number))
            context = Context(1, node, {"dataset-path": path}, RecordDict(), config)
            replies.append(app(message, context))
        arrays, _ = strategy.aggregate_train(number, replies)
    safetensors.torch.save_file(dict(arrays.to_torch_state_dict()), out)


main(*sys.argv[1:])
