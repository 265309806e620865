"""Compare JSON documents and paths into them with the same results on both backends.

`database.json_methods` has the SQL that differs between them.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import peewee

from ..errors import AIContentError, ValidationError, kind_of
from .policy import check_document, check_text, plain_text

_SQL_EXPRESSIONS = (peewee.Value, peewee.SQL, peewee.Function, peewee.Expression)

_AGGREGATES = "MIN(", "MAX(", "SUM(", "AVG("
_BEFORE_CONDITIONS = " WHERE ", " HAVING ", " WHEN ", " AND ", " OR "


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


class _Compared(peewee.ColumnBase):
    """A document or a value in a document. NULL sorts last in ascending order on both databases."""

    def _compared_as(self) -> Any:
        """Return the expression to compare."""
        return self

    def _operand(self, value: Any) -> Any:
        """Check and convert the other operand of a comparison."""
        raise NotImplementedError

    def _compared(self, operator: str, rhs: Any) -> Any:
        return peewee.Expression(self._compared_as(), operator, rhs)

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


class Comparable(_Compared):
    """JSON that compares and sorts as PostgreSQL's jsonb does.

    Operators that only one of the databases has raise AIContentError.
    """

    _remedy: str
    _as_text = False

    def _document(self) -> Any:
        raise NotImplementedError

    def _operand(self, value: Any) -> Any:
        field = self._document()
        if isinstance(value, Comparable) and not value._as_text:
            return value._compared_as()
        if isinstance(value, (_Compared, peewee.Field)):
            raise AIContentError(
                f"{field.name} is JSON, which compares only with JSON: to compare it with a "
                "column, use as_int(), as_float() or as_text() of a path"
            )
        if isinstance(value, _SQL_EXPRESSIONS):
            raise AIContentError(
                f"{field.name} is JSON, which compares only with JSON and Python values: to "
                "compare it with an SQL expression, use as_int(), as_float() or as_text() of a path"
            )
        if value is None or isinstance(value, peewee.Node):
            return value
        check_document(value, field.name)
        return field._helper.compare_value(field, value)

    def _no_such_operator(self, *_: Any) -> Any:
        raise AIContentError(
            f"{self._document().name}: the two databases do not both have this operator for JSON: "
            f"use {self._remedy}"
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

    def as_int(self) -> Any:
        return _Number(self, "int")

    def as_float(self) -> Any:
        return _Number(self, "float")

    def concat(self, rhs: Any) -> Any:
        return peewee.ColumnBase.concat(self, rhs) if self._as_text else self._no_such_operator()

    # On SQLite, Peewee's LIKE is GLOB, and the two databases have different regular expressions.
    __mod__ = like = regexp = iregexp = Comparable._no_such_operator

    def ilike(self, rhs: Any) -> Any:
        return super().ilike(self.as_text()._operand(rhs))

    __pow__ = ilike

    def startswith(self, rhs: Any) -> Any:
        return super().startswith(self.as_text()._operand(rhs))

    def endswith(self, rhs: Any) -> Any:
        return super().endswith(self.as_text()._operand(rhs))

    def __sql__(self, ctx: Any) -> Any:
        # In places where PostgreSQL refuses jsonb, SQLite would use the JSON text of the path.
        if not self._as_text:
            start = "".join(ctx._sql[-4:]).upper().removesuffix("DISTINCT ")
            column = getattr(ctx.state.converter, "__self__", None)
            is_of_text = isinstance(column, peewee.Field) and not isinstance(column, Comparable)
            is_condition = start.endswith(_BEFORE_CONDITIONS)
            is_compared = is_of_text and not ctx.state.in_function
            if is_condition or is_compared or start.endswith(_AGGREGATES):
                self._no_such_operator()
        return super().__sql__(ctx)  # type: ignore[no-untyped-call]


class _Number(_Compared, peewee.WrappedNode):
    """The number at a path, which compares only with numbers."""

    def __init__(self, path: DocumentPath, kind: str) -> None:
        field = path._field
        super().__init__(field._helper.number(field, path._keys, kind))
        self._name, self._kind = field.name, kind

    def unwrap(self) -> Any:
        return self

    def __mod__(self, _: Any) -> Any:  # in Peewee, % is LIKE
        raise AIContentError(f"{self._name}: a number at a path has no %: use fn.MOD()")

    def _operand(self, value: Any) -> Any:
        if value is None or isinstance(value, peewee.Node):
            return value
        is_int, is_float = isinstance(value, int), self._kind == "float"
        with suppress(OverflowError):
            if not isinstance(value, bool) and (is_int or (is_float and isinstance(value, float))):
                number = float(value) if is_float else int(value)
                if is_float or -(2**63) <= number < 2**63:
                    return peewee.Value(number, converter=False)
        rule = "must be a number" if is_float else "must be an int of at most 8 bytes"
        raise ValidationError(
            self._name, f"{rule} where as_{self._kind}() is compared", kind_of(value)
        )

    def __sql__(self, ctx: Any) -> Any:
        return ctx.sql(self.node)


def _key(key: Any, field: str) -> str | int:
    if isinstance(key, str):
        check_text(key, field)
        return plain_text(key)
    if isinstance(key, bool) or not isinstance(key, int):
        raise ValidationError(field, "a path must consist of str and int", kind_of(key))
    return int(key)
