"""Comparisons of JSON documents and of paths into them, which mean the same on both backends.

What differs by database stands in `database.json_methods`.
"""

from collections.abc import Callable
from typing import Any

import peewee

from ..errors import AIContentError, ValidationError, kind_of
from .policy import check_document, check_text, plain_text

_AGGREGATES = "MIN(", "MAX(", "SUM(", "AVG("


def _comparison(operator: str) -> Any:
    return lambda self, rhs: self._compared(operator, self._operand(rhs))


def _membership(operator: str) -> Callable[[Any, Any], peewee.Expression]:
    def compare(self: Any, rhs: Any) -> peewee.Expression:
        if not isinstance(rhs, peewee.Node):
            values = [self._operand(each) for each in rhs]
            wrapped = (v if isinstance(v, peewee.Node) else peewee.Value(v, False) for v in values)
            rhs = peewee.EnclosedNodeList(list(wrapped))
        compared: peewee.Expression = self._compared(operator, rhs)
        return compared

    return compare


class Comparable(peewee.ColumnBase):
    """A document, or a value in one, which compares and sorts as jsonb does.

    The operators that the two databases do not share raise AIContentError.
    """

    _remedy: str
    _as_text = False

    def _document(self) -> Any:
        raise NotImplementedError

    def _compared_as(self) -> Any:
        """Return the expression that represents this in a comparison."""
        return self

    def _compared(self, operator: str, rhs: Any) -> Any:
        return peewee.Expression(self._compared_as(), operator, rhs)

    def _operand(self, value: Any) -> Any:
        field = self._document()
        if isinstance(value, Comparable) and not value._as_text:
            return value._compared_as()
        if isinstance(value, (Comparable, peewee.Field)):
            raise AIContentError(
                f"{field.name} holds JSON, which is compared with JSON alone: compare as_int(), "
                "as_float() or as_text() of a path with a column"
            )
        if value is None or isinstance(value, peewee.Node):
            return value
        check_document(value, field.name)
        return field._helper.compare_value(field, value)

    def __eq__(self, rhs: Any) -> Any:
        return self.is_null() if rhs is None else self._compared("=", self._operand(rhs))

    def __ne__(self, rhs: Any) -> Any:
        return self.is_null(False) if rhs is None else self._compared("!=", self._operand(rhs))

    __hash__ = object.__hash__
    __rshift__ = __eq__
    __lt__, __le__ = _comparison("<"), _comparison("<=")
    __gt__, __ge__ = _comparison(">"), _comparison(">=")
    __lshift__ = in_ = _membership(peewee.OP.IN)
    not_in = _membership(peewee.OP.NOT_IN)

    def between(self, lo: Any, hi: Any) -> Any:
        bounds = (self._operand(lo), peewee.SQL("AND"), self._operand(hi))
        return self._compared(peewee.OP.BETWEEN, peewee.NodeList(bounds))

    def asc(self, collation: str | None = None, nulls: str | None = None) -> Any:
        return peewee.Asc(self._compared_as(), collation, nulls or "last")

    def desc(self, collation: str | None = None, nulls: str | None = None) -> Any:
        return peewee.Desc(self._compared_as(), collation, nulls or "first")

    __pos__, __neg__ = asc, desc

    def _no_such_operator(self, *_: Any) -> Any:
        raise AIContentError(
            f"{self._document().name}: JSON has no such operator on both databases: use "
            f"{self._remedy}"
        )

    __add__ = __sub__ = __mul__ = __truediv__ = __xor__ = __and__ = __or__ = _no_such_operator
    __radd__ = __rsub__ = __rmul__ = __rtruediv__ = __rxor__ = __rand__ = __ror__ = __add__
    __invert__ = bin_and = bin_or = _no_such_operator
    concat: Any = _no_such_operator


class DocumentPath(Comparable, peewee.JSONPath):
    """A value inside a document: `Content.metadata["promptVersion"]`."""

    _remedy = "as_int(), as_float(), as_text() or ilike() of the path"
    _field: Any
    _keys: Any

    def __init__(self, field: Any, keys: Any = (), as_text: bool = False) -> None:
        super().__init__(field, [_key(key, field.name) for key in keys], as_text)

    def _document(self) -> Any:
        return self._field

    def _operand(self, value: Any) -> Any:
        if not self._as_text:
            return super()._operand(value)
        if value is None or isinstance(value, peewee.Node):
            return value
        if not isinstance(value, str):
            rule = "as_text() must be compared with a str: use as_int(), as_float(), or the path"
            raise ValidationError(self._field.name, rule, kind_of(value))
        check_text(value, self._field.name)
        return plain_text(value)

    def is_null(self, is_null: bool = True) -> Any:
        return peewee.JSONPath.is_null(self, is_null)

    def as_int(self) -> Any:
        return self._field._helper.number(self._field, self._keys, "int")

    def as_float(self) -> Any:
        return self._field._helper.number(self._field, self._keys, "float")

    def concat(self, rhs: Any) -> Any:
        return peewee.ColumnBase.concat(self, rhs) if self._as_text else self._no_such_operator()

    __mod__ = like = Comparable._no_such_operator  # on SQLite, Peewee's LIKE is GLOB
    __pow__ = peewee.JSONPath.ilike

    def __sql__(self, ctx: Any) -> Any:
        # Where PostgreSQL refuses jsonb, SQLite would take the path's JSON text for the value.
        if not self._as_text:
            start = "".join(ctx._sql[-4:]).upper().removesuffix("DISTINCT ")
            column = getattr(ctx.state.converter, "__self__", None)
            is_of_text = isinstance(column, peewee.Field) and not isinstance(column, Comparable)
            is_condition = start.endswith(" WHERE ") or ctx._sql[-1:] in ([" AND "], [" OR "])
            is_compared = is_of_text and not ctx.state.in_function
            if is_condition or is_compared or start.endswith(_AGGREGATES):
                self._no_such_operator()
        return super().__sql__(ctx)  # type: ignore[no-untyped-call]


def _key(key: Any, field: str) -> str | int:
    if isinstance(key, str):
        check_text(key, field)
        return plain_text(key)
    if isinstance(key, bool) or not isinstance(key, int):
        raise ValidationError(field, "a path must consist of str and int", kind_of(key))
    return int(key)
