"""Named queries: their arguments and their SQL, which `procline fleet query --show NAME` prints."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.errors import ConfigError
from pipeline.fleet.ancestry import BY_PID, ancestry
from pipeline.fleet.open_store import OpenStore, QueryResult
from pipeline.fleet.schema import CUT
from pipeline.forward.batches import token
from pipeline.select.programs import SHELLS
from pipeline.select.times import period_ns, time_ns

#: A question about a program takes the path of its executable, or only the file name.
_IS_PROGRAM = "(path = $program OR split_part(path, '/', -1) = $program)"


@dataclass(frozen=True)
class Argument:
    """An argument of a question.

    Attributes:
        name: of the parameter in the SQL.
        kind: a key of KINDS.
        default: used if it is omitted; None: it must be given.
    """

    name: str
    kind: str
    default: str | None = None


@dataclass(frozen=True)
class NamedQuery:
    """A named query: a question, and its SQL.

    Attributes:
        text: the question.
        arguments: in order.
        sql: its SQL, with the arguments as named parameters.
        answer: answers it instead of `sql`, which then is one step.
        is_open: the last argument can be repeated.
    """

    text: str
    arguments: tuple[Argument, ...]
    sql: str
    answer: Callable[[OpenStore, Mapping[str, Any]], QueryResult] | None = None
    is_open: bool = False

    @property
    def usage(self) -> str:
        """The arguments as in a help text."""
        words = [each.name.upper() if each.default is None else f"[{each.name.upper()}]" for each in self.arguments]
        return " ".join(words) + (" ..." if self.is_open else "")


def _program_pattern(programs: str) -> str:
    """Return the regular expression of chains in which programs follow each other, the last one at the end.

    Args:
        programs: their file names with spaces in between; ``shell`` is any shell.
    """
    names = []
    for program in programs.split():
        name = program.rpartition("/")[2]
        names.append(f"(?:{'|'.join(sorted(map(re.escape, SHELLS)))})" if name == "shell" else re.escape(name))
    return f"(?:^|/){'/(?:.*/)?'.join(names)}$"


def _cut_pattern(programs: str) -> str:
    """Return the regular expression of chains that `_program_pattern` could match if they were not cut."""
    words = programs.split()
    ends = [_program_pattern(" ".join(words[at:])) for at in range(1, len(words))]
    return f"^{CUT}/(?:.*/)?(?:{'|'.join(end.removeprefix('(?:^|/)') for end in ends)})" if ends else "a^"


def _moment(value: str) -> int:
    return time_ns(value, time.time_ns())


def _begin(value: str) -> int:
    return time.time_ns() - period_ns(value)


def _count(value: str) -> int:
    number = int(value)
    if not 0 < number <= 1_000_000:
        raise ValueError(f"{value} is not a number from 1 to 1000000")
    return number


def _pid(value: str) -> int:
    number = int(value)
    if not 0 < number < 1 << 32:
        raise ValueError(f"{value} is not a pid")
    return number


#: Kinds of arguments: how text becomes the value of a parameter, and an example for errors.
KINDS: dict[str, tuple[Callable[[str], Any], str]] = {
    "text": (str, "text"),
    "host": (lambda value: token(value) if value else "", "the name of a host"),
    "pid": (_pid, "4711"),
    "time": (_moment, "now, -5m, 13:05, or an ISO time"),
    "period": (_begin, "24h, 30m or 7d"),
    "count": (_count, "10"),
    "programs": (lambda value: value, "sshd shell curl"),
}

QUERIES: dict[str, NamedQuery] = {
    "where": NamedQuery(
        "Where does this executable run, or did it run? PROGRAM is a path or a file name.",
        (Argument("program", "text"),),
        f"""
WITH wanted AS (SELECT DISTINCT path FROM programs WHERE {_IS_PROGRAM}),
ran AS (
    SELECT host, path, sum(count) FILTER (topic = 'exec') AS runs, min(first_ns) AS first_ns, max(last_ns) AS last_ns
    FROM programs WHERE path IN (SELECT path FROM wanted) AND topic IN ('exec', 'snapshot') GROUP BY host, path
),
images AS (  -- processes that had the executable and did not end with it; few columns, because it reads all events
    SELECT host, pid, start_time_ns FROM events
    WHERE path IN (SELECT path FROM wanted) AND topic IN ('fork', 'exec', 'exit', 'snapshot')
    GROUP BY host, pid, start_time_ns HAVING NOT bool_or(topic = 'exit')
),
facts AS MATERIALIZED (
    SELECT host, pid, start_time_ns, boot, topic, path, time_ns FROM events JOIN images USING (host, pid, start_time_ns)
    WHERE topic IN ('fork', 'exec', 'exit', 'snapshot')
),
left_over AS (  -- with the last event about the executable
    SELECT host, pid, start_time_ns, arg_max(path, time_ns) AS path, max(time_ns) AS seen_ns
    FROM facts SEMI JOIN hosts USING (host, boot) WHERE path IN (SELECT path FROM wanted)
    GROUP BY host, pid, start_time_ns
),
gone AS (  -- they ended, or execute something else now
    SELECT DISTINCT host, pid, start_time_ns FROM facts f JOIN left_over l USING (host, pid, start_time_ns)
    WHERE f.topic IN ('exec', 'exit') AND f.time_ns >= l.seen_ns AND f.path IS DISTINCT FROM l.path
),
running AS (
    SELECT host, path, count(*) AS running FROM left_over ANTI JOIN gone USING (host, pid, start_time_ns)
    GROUP BY host, path
)
SELECT host, path, coalesce(runs, 0)::BIGINT AS runs, coalesce(running, 0) AS running,
    make_timestamp(first_ns // 1000) AS first_seen, make_timestamp(last_ns // 1000) AS last_seen
FROM ran LEFT JOIN running USING (host, path) ORDER BY host, path
""",
    ),
    "ancestry": NamedQuery(
        "What was the process PID of HOST at TIME, and what are its ancestors? The nearest is first.",
        (Argument("host", "host"), Argument("pid", "pid"), Argument("time", "time", "now")),
        BY_PID,
        ancestry,
    ),
    "new": NamedQuery(
        "Which executables were seen for the first time in the last PERIOD, on any host?",
        (Argument("period", "period", "24h"),),
        """
SELECT path, arg_min(host, first_ns) AS first_host, make_timestamp(min(first_ns) // 1000) AS first_seen,
    count(DISTINCT host) AS hosts, sum(count)::BIGINT AS runs
FROM programs WHERE topic = 'exec' GROUP BY path HAVING min(first_ns) >= $period ORDER BY min(first_ns), path
""",
    ),
    "lineage": NamedQuery(
        "On which hosts did these programs descend from each other, oldest first? `shell` is any shell.",
        (Argument("programs", "programs"),),
        """
SELECT host, chain, sum(count)::BIGINT AS runs, make_timestamp(min(first_ns) // 1000) AS first_seen,
    make_timestamp(max(last_ns) // 1000) AS last_seen, bool_and(NOT regexp_matches(chain, $pattern)) AS is_cut
FROM programs
WHERE topic = 'exec' AND (regexp_matches(chain, $pattern) OR regexp_matches(chain, $cut_pattern))
GROUP BY host, chain ORDER BY host, min(first_ns), chain
""",
        is_open=True,
    ),
    "spawners": NamedQuery(
        "Which executables make most processes, on each host? TOP of each.",
        (Argument("top", "count", "5"), Argument("host", "host", "")),
        """
SELECT host, path, sum(count)::BIGINT AS processes, make_timestamp(max(last_ns) // 1000) AS last_seen
FROM programs WHERE topic = 'fork' AND ($host = '' OR host = $host) GROUP BY host, path
QUALIFY row_number() OVER (PARTITION BY host ORDER BY sum(count) DESC, path) <= $top
ORDER BY host, processes DESC, path
""",
    ),
    "lifetimes": NamedQuery(
        "How long do processes live, by the executable that they ran last? TOP by number. Median and p99 are "
        "upper bounds, at most 41 % too high.",
        (Argument("top", "count", "20"), Argument("host", "host", "")),
        """
WITH classes AS (
    SELECT path, lifetime_class, sum(count) AS count, max(lifetime_max_ns) AS max_ns, sum(lifetime_ns) AS sum_ns
    FROM programs WHERE topic = 'exit' AND ($host = '' OR host = $host) GROUP BY path, lifetime_class
),
ranked AS (
    SELECT *, sum(count) OVER (PARTITION BY path ORDER BY lifetime_class) AS until,
        sum(count) OVER (PARTITION BY path) AS total
    FROM classes
)
SELECT path, total::BIGINT AS processes, sum(sum_ns) / total / 1e9 AS mean_s,
    min(max_ns) FILTER (until >= 0.5 * total) / 1e9 AS median_s,
    min(max_ns) FILTER (until >= 0.99 * total) / 1e9 AS p99_s, max(max_ns) / 1e9 AS max_s
FROM ranked GROUP BY path, total ORDER BY processes DESC, path LIMIT $top
""",
    ),
    "lost": NamedQuery(
        "What was lost where? `count` is empty where only the time is known.",
        (Argument("host", "host", ""),),
        """
SELECT host, topic, cause, count, first, from_time, to_time FROM losses
WHERE $host = '' OR host = $host ORDER BY host, coalesce(from_time, to_time), topic, first
""",
    ),
}


def ask(opened: OpenStore, name: str, values: Sequence[str]) -> QueryResult:
    """Answer a question.

    Raises:
        ConfigError: an argument is missing or wrong.
        QueryError: the answer takes too much time or memory.
    """
    query = QUERIES[name]
    parameters = parsed(name, values)
    return query.answer(opened, parameters) if query.answer else opened.ask(query.sql, parameters)


def parsed(name: str, values: Sequence[str]) -> dict[str, Any]:
    """Return the parameters of a question from the text of its arguments.

    Raises:
        ConfigError: an argument is missing or wrong.
    """
    query = QUERIES[name]
    usage = f"use: procline fleet query {name} {query.usage}".rstrip()
    given = [" ".join(values)] if query.is_open and values else list(values)
    if len(given) > len(query.arguments):
        raise ConfigError(f"{name} has too many arguments; {usage}", key=name)
    parameters: dict[str, Any] = {}
    for at, argument in enumerate(query.arguments):
        text = given[at] if at < len(given) else argument.default
        if text is None:
            raise ConfigError(f"{name} needs {argument.name.upper()}; {usage}", key=argument.name)
        convert, example = KINDS[argument.kind]
        try:
            value = convert(text)
        except ValueError:
            raise ConfigError(
                f"{text!r} is not a value for {argument.name.upper()}: use {example}", key=argument.name, value=text
            ) from None
        if argument.kind == "programs":
            parameters |= {"pattern": _program_pattern(value), "cut_pattern": _cut_pattern(value)}
        else:
            parameters[argument.name] = value
    return parameters


def listing() -> Iterator[tuple[str, str]]:
    """Yield each question's name with its arguments, and its text."""
    for name, query in QUERIES.items():
        yield f"{name} {query.usage}".rstrip(), query.text
