"""Inside a silo's run: the SDK, the runner, the DDP workers, their launcher.

Contract (the modules and what others may call):

``sdk.py`` (torch) — ``ClientTrainer`` with ``build_model(ctx) -> nn.Module``, ``train(ctx, model) -> metrics | None``,
``evaluate(ctx, model) -> metrics``; ``Context`` with ``round``, ``rounds``, ``seed``, ``rank``, ``world_size``,
``device``, ``silo``, ``hyperparameters``, ``dataset(alias) -> SiloDataset``, ``loader(dataset, batch_size, shuffle)``
(a DataLoader with DistributedSampler and a seeded generator), ``report(step=…, **values)``, ``log(text)``,
``examples`` (the answer's weight; set by the first training loader, may be overridden), ``backward(loss)`` (scales the
loss for float16; else plain).

job.toml's [training] changes how steps are made, and the trainer's code need not know (``numerics.py``, ``steps.py``,
``shares.py``): ``precision`` "bf16" or "fp16" is autocast around ``train`` and ``evaluate`` as a whole (float16 on GPUs
alone, where the trainer calls ``ctx.backward(loss)``); ``accumulate`` and ``clip_norm`` act in front of each optimiser
step; ``compile`` compiles what ``train`` gets; ``shares`` "measured", or the ``shares`` of ``Engine`` and
``RunnerSpec``, split each batch over unequal workers so that the steps are those of one big batch; ``parallel`` "fsdp"
spreads the model over the workers (``parallel.py``); ``stall_s`` ends a task that makes no progress (``watch.py``).

``engine.py`` (torch) — one worker's work without any process around it; simulation and DDP workers both drive it::

    @dataclass TaskInput: task ("train" | "evaluate"), round, rounds, model: Path, config: dict (Task.config_json)
    @dataclass TaskResult: examples, steps, metrics ("train/…", "eval/…", with "eval/examples"), update: Path | None
                           (a safetensors file in the layout and order of the model that came in), train_seconds, spans
    class Engine(package: Path, trainer: str, config: RunConfig, silo: str, sources: dict[str, DataSource], *, rank=0,
                 world_size=1, device="cpu", threads=1, report: Reporter | None = None, shares=())
        .run(task: TaskInput, out: Path) -> TaskResult        # deterministic in (package, config, silo, data, model)
    def initial_model(package, trainer, config, out: Path) -> None   # seeded by derive_seed(config.seed, "init")

``gradient.py`` has the gradient over all examples from the trainer's own ``train``, where the strategy wants it back
beside the update; ``anchored.py`` the loss at the model that came in, for Mime; ``task.py`` the two values above, and
``calls.py`` what a trainer is asked without data.

A "train" task first evaluates the model that came in (metrics "eval/…" speak of the incoming global model), then
trains. With [personal] in job.toml the model is also judged ("eval_personal/…"), and at the run's end kept at the silo,
after some training of the silo alone. Metrics of ``train`` are averaged over workers by examples. ``config.update``
says whether the update holds weights or the difference to the incoming model.

``runner.py`` (no torch) — ``python -m octopus_desktop.training.runner RUN_DIR``: takes
TASK envelopes from the inbox, drives the warm workers through a Unix socket in RUN_DIR (frames of JSON, never pickle),
stores the update as a blob, posts the ANSWER with ``dedupe = "{round}/{silo}/{task}"``, and marks the inbox row done,
the last two in one transaction. A task whose answer is in the outbox is never trained again; a newer lease epoch for it
reposts that answer with the new epoch. ``leaving.py`` checks, filters and encodes what leaves, ``feedback.py`` keeps
what an encoding left out. ``launcher.py`` keeps the group of workers, ``bench.py`` the worker processes of one
machine; where a run spans machines, ``share.py`` is a further one's part, started by its agent (``nodes``).

``initial.py`` — ``python -m octopus_desktop.training.initial SPEC OUT`` runs the package's ``build_model`` in a process
of its own for coordinator and simulator.
"""
