"""Create the partitions of a new table on PostgreSQL, and check those of a stored one."""

from math import lcm

import peewee

from ..database.catalog import Partition
from ..database.supported import backend_of
from ..errors import MigrationError, UnsupportedDatabaseError, check_number
from ..table import TABLE

_MOST = 1024
"""PostgreSQL plans a query that names no user for each partition: with a thousand it takes long."""


def check_partitions(database: peewee.Database, number: int, *, is_new: bool) -> None:
    """Check that a table can be made in a number of partitions, or has that number.

    Raises:
        ArgumentError: the number is none. UnsupportedDatabaseError: there are no partitions here.
        MigrationError: the table is there in another form.
    """
    check_number(number, "partitions", 1, _MOST)
    catalog = backend_of(database).catalog(database)
    problem = catalog.partitioning_problem()
    if problem is not None:
        raise UnsupportedDatabaseError(problem)
    if is_new:
        return
    partitions = catalog.partitions(TABLE)
    if partitions is None or len(partitions) != number:
        form = "is not partitioned" if partitions is None else f"has {len(partitions)} partitions"
        raise MigrationError(
            f"{TABLE} {form}, which cannot be changed to {number}: export its content, migrate "
            f"another database with {number}, and import the content there (docs/scaling.md)"
        )


def partition_sql(number: int) -> list[str]:
    """Return the statements that create all partitions of the table."""
    digits = len(str(number - 1))
    return [
        f'CREATE TABLE "{TABLE}_p{n:0{digits}}" PARTITION OF "{TABLE}" '
        f"FOR VALUES WITH (MODULUS {number}, REMAINDER {n})"
        for n in range(number)
    ]


def partition_problems(partitions: list[Partition] | None) -> list[str]:
    """Return which partitions of a partitioned table are missing, with the remedy.

    Partitions may have several moduli, because one can be split without the others.
    """
    if partitions is None:
        return []
    modulus = lcm(*(each.modulus for each in partitions))
    present = {n for each in partitions for n in range(each.remainder, modulus, each.modulus)}
    missing = [n for n in range(modulus) if n not in present]
    if not missing:
        return []
    names = ", ".join(map(str, missing[:10])) + (" and others" if len(missing) > 10 else "")
    return [
        f"{TABLE} has no partition for the remainders {names} of modulus {modulus}, so the content "
        "of their users is not found and cannot be stored: attach the partition again (ALTER TABLE "
        f"{TABLE} ATTACH PARTITION ... FOR VALUES WITH (MODULUS {modulus}, REMAINDER "
        f"{missing[0]})), or restore it from a backup"
    ]
