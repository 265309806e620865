"""Create the partitions of a new table on PostgreSQL, and check those of an existing table."""

from math import lcm

import peewee

from ..database.catalog import Partition
from ..database.supported import backend_of
from ..errors import MigrationError, UnsupportedDatabaseError, check_number, counted
from ..table import TABLE

MOST = 1024
"""The most partitions: PostgreSQL plans a query without a user once per partition."""


def check_partitions(database: peewee.Database, number: int, *, is_new: bool) -> None:
    """Check that the table can be created with a number of partitions, or already has it.

    Raises:
        ArgumentError: the number is not an int from 1 to 1,024.
        UnsupportedDatabaseError: this database has no partitions.
        MigrationError: the existing table is not partitioned, or has another number of partitions.
    """
    check_number(number, "partitions", 1, MOST)
    catalog = backend_of(database).catalog(database)
    problem = catalog.partitioning_problem()
    if problem is not None:
        raise UnsupportedDatabaseError(problem)
    partitions = None if is_new else catalog.partitions(TABLE)
    # A partition that was split by hand has a larger modulus than the others.
    if is_new or (partitions and min(each.modulus for each in partitions) == number):
        return
    form = "is not partitioned"
    if partitions is not None:
        form = f"has {counted(len(partitions), 'partition')}"
    raise MigrationError(
        f"{TABLE} {form}, which cannot be changed to {number}: export its content, migrate another "
        f"database with partitions={number}, and import the content there (docs/guides/scaling.md)"
    )


def partition_sql(number: int) -> list[str]:
    """Return the statements that create all partitions of the table."""
    digits = len(str(number - 1))
    return [
        f'CREATE TABLE "{TABLE}_p{n:0{digits}}" PARTITION OF "{TABLE}" '
        f"FOR VALUES WITH (MODULUS {number}, REMAINDER {n})"
        for n in range(number)
    ]


def partition_problems(partitions: list[Partition]) -> list[str]:
    """Return a problem with its remedy if partitions are missing.

    Partitions may have different moduli, because one of them can be split alone.
    """
    if not partitions:
        return [f"{TABLE} has no partitions: attach them again, or restore them from a backup"]
    modulus = lcm(*(each.modulus for each in partitions))
    present = {n for each in partitions for n in range(each.remainder, modulus, each.modulus)}
    missing = [n for n in range(modulus) if n not in present]
    if not missing:
        return []
    names = ", ".join(map(str, missing[:10])) + (" and others" if missing[10:] else "")
    return [
        f"{TABLE} lacks the partitions of modulus {modulus} with these remainders: {names}. Their "
        "users' content is not found and cannot be stored: attach each again (ALTER TABLE "
        f"{TABLE} ATTACH PARTITION ... FOR VALUES WITH (MODULUS {modulus}, REMAINDER "
        f"{missing[0]})), or restore it from a backup"
    ]
