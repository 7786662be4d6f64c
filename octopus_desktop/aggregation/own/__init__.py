"""A strategy of the job's own, in a process of its own: in the same way at the server, in a simulation and when a
researcher tries it out.

``strategy.py`` — ``OwnStrategy``, which looks to the fold like any other strategy. ``host.py`` — the process: started
in a sandbox, spoken to, ended. ``process.py`` — what runs there, the one place that imports the package's strategy.
``told.py`` — what is believed of what it says. ``memory.py`` — where a tile lies in the memory that both see.
``trial.py`` — tries a strategy out on small arrays.

Words (``wire.frames``), on any of the process's lanes, each answered on the same one before the next:

    job {code, entry, parameters, update, cohort, answer_s, memory_bytes} → facts {name, update, modes, shared,
        asynchronous, pairwise, slots}
    memory {slots, window, cell_bytes}, and a file descriptor behind it → done
    configure {round} → words {words}
    begin {answers, next} → weights {weights, words}: a new instance; ``words`` are those of the round ``next``, if
        it is not 0
    weigh {answers, next} → weights: the same, with the inner products in the window
    combine {kind, length, weights, round, slots, held} → done; on the way read {update} → held {first, count}
    anything → fault {code, what, why, next}

On starting, before it has read any of the package, the process says ``up``.
"""
