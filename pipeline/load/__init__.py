"""`procline load`: make processes at a chosen rate, and compare what an instance reported with what was made.

    scenarios   what can be made, and which privileges that needs
    program     the compiled program that makes the processes (programs/*.c), and how it is started and ended
    truth       what the program recorded, and the comparison with the events of a subscriber
    listening   the subscriber, a process of its own; listener starts it, and reads what it has kept
    instance    an instance that runs already, or one that is started for the test
    measuring   CPU time, memory, ring fill, facts about the host; the benches use it too
    run         one round: load, subscriber and measurements together
    paired      the same load with and without Procline
    limit       the highest rate without loss
    summary     a report as rows of text; page makes HTML of it; compare shows several reports side by side

The truth comes from the load itself: the program records each process and how it ended, and the kernel's counter of
forks confirms it. This package never asks Procline what was made. It does not decide whether a host is fast enough,
does not print, and does not check processes that it did not make.
"""
