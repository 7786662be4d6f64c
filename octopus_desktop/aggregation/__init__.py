"""Federated optimisation: strategies, the round loop, privacy filters. Pure: no sockets, no clock of its own.

Contract:

``strategies/`` — one file a strategy, one registration (``strategies.make(name, parameters) -> Strategy``; raises
OCT-STRATEGY-PARAMETER). A ``Strategy`` works tile by tile on flat tensors, so that memory does not grow with silos or
with the model::

    class Strategy(Protocol):
        name: str
        update: str                                  # "weights" | "difference": what silos are asked to send
        def configure(self, round: int) -> dict[str, JSON]          # per-round words for the silos
        def slots(self) -> Sequence[str]                            # names of server-side state as large as the model
        def weights(self, answers: Sequence[AnswerFacts]) -> Sequence[float]   # from counts, steps, metrics
        def combine(self, tile: Tile) -> Tensor                     # the new global tile; sums in the silos' order

``rounds.py`` — the round loop, a reducer: ``RoundLoop(config, silos, strategy)`` with ``apply(event) ->
list[Instruction]``. Events: Started(model), Answered(silo, round, task, facts), DeadlinePassed(round), SiloWent(silo),
SiloCame(silo), Aggregated(round, model, ...), Resumed(...). Instructions: Dispatch(silo, round, task, epoch, ...),
Aggregate(round, answers in silos' order, ...), Complete(model, metrics), Fail(code, reason). The coordinator
(``server.coordinator``) and the simulator drive the same machine. Its state is a value that is written as JSON in the
same transaction as the envelopes it leads to.

``fold.py`` — streams update files through a strategy into a new model file, tile by tile.
"""
