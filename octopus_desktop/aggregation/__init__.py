"""Federated optimisation: strategies, the round loop, privacy filters. Pure: no sockets, no clock of its own.

Contract:

``strategies/`` — one file a strategy, one registration: ``strategies.make(name, parameters, update) -> Strategy``
(raises OCT-STRATEGY-PARAMETER). A ``Strategy`` (``strategies.base``) works tile by tile on flat NumPy arrays, so that
memory does not grow with silos or with the model, and so that a coordinator needs no torch::

    name: str
    update: str                                  # "weights" | "difference": what silos are asked to send
    def configure(self, round) -> dict[str, JSON]               # per-round words for the silos
    def slots(self) -> Mapping[str, float]                      # server-side state as large as the model: name, start
    def weights(self, answers: Sequence[AnswerFacts]) -> list[float]   # from counts, steps, metrics
    def combine(self, tile: Tile) -> Array                      # the new global tile; sums in the silos' order

What a strategy asks of the silos' own steps (FedProx, SCAFFOLD, FedDyn, FedSGD) are words that ``training.corrections``
understands. A ``pairwise`` one (Krum, RFA, q-FedAvg) weighs by the updates' inner products, which the fold finds first.

``own/`` — a job's own strategy, written against ``sdk.py``, in a confined process: the one place here that starts one.

``rounds.py`` — the round loop, a reducer: ``RoundLoop(config, silos).apply(event) -> list[Instruction]``, and
``async_rounds.py`` the same without waiting for everybody; ``loops.make_loop`` gives the run's. ``events.py`` has
events and instructions, ``state.py`` the state: a value that is written as JSON in the same transaction as the
envelopes it leads to. ``next_timer()`` names the next moment at which time alone is an event. The coordinator
(``server.coordinator``) and the simulator drive the same machine. ``facts.py`` — blobs, answers, metrics, and
``task_config``, the words of every task.

``fold.py`` — streams update files through a strategy into a new model file, tile by tile. ``filters.py`` — what is done
to a silo's update before it leaves: a list of filters from ``make(privacy)``. ``encodings/`` — how an update leaves in
fewer bytes, and is read while it is folded.
"""
