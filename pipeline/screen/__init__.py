"""How text for people looks: one set of colours, widths, times and names for every screen.

Modules: `styles` names the colours; `lines` builds a line from styled pieces, cuts it and wraps it; `terminal` knows
how wide the output is and whether it has colour; `times` formats durations, ages and points in time; `processes` shows
a process: its program, arguments, user and end; `tables` aligns columns.

Everything that a process can choose goes through `pipeline.export.text.printable` here, so a terminal never gets a
control character of it. The package does not read the tables and knows no command.
"""
