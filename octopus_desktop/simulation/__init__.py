"""The same job on virtual silos on one machine, without a network: what is simulated is what is deployed.

``simulator.simulate(job, data)`` drives the round loop, the fold and the engine of the real thing, and gives the
bit-identical model for the same silos (names and order), data, configuration, workers and threads. ``jobs.open_job``
takes a job's folder or package. ``cohort.py`` — who does the silos' tasks: this process, or several (``helper.py``);
``batched.py`` — all of a round in one go; ``spread.py``, ``follower.py`` and ``group.py`` — on many machines under
torchrun; ``memory.py`` — updates without files; ``garbage.py`` — a thousand silos' objects and Python. ``silos.py`` — a
virtual silo: an engine in this process, or the launcher's workers. ``partition.py`` cuts one dataset into silos.
``layout.py`` turns a person's words into silos with data. ``baselines.py`` trains each silo alone and one model on the
pooled data. ``example_data.py`` writes the examples' real data. ``modes.py`` sets sync against async in simulated time;
``reports.py`` writes metrics and curves. Knows neither daemon nor server.
"""
