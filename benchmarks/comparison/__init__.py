"""A working tree against a revision of it: ``trees`` makes both ready, ``worker`` runs in a process of each, ``pairs`` asks them in
turn, ``verdicts`` says what is slower. ``benchmarks.compare`` is the command."""
