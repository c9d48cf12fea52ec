"""Reads properties in VNN-LIB 1.0, as the competitions of 2021 to 2024 use it, and in 2.0 through `vnnlib2`.

Accepted are `declare-const` of X_i and Y_j as Real, and assertions of and, or, and comparisons of linear expressions
of inputs and outputs. Each input must have a lower and an upper bound, stated or implied. Decimals are read as exact
rationals, which are rounded (outward) only when floats are requested.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from certnas.errors import UserError
from certnas.verifier.property import Box, Clause, Constraint, Interval, Property
from certnas.verifier.sexpr import Atom, Expression, Form, parse, read_text
from certnas.verifier.vnnlib2 import is_version_2, read_query

MOST_CLAUSES = 10_000
"""The limits on the number of cases, of comparisons, and of the bits of a number."""
MOST_ATOMS = 2_000_000
MOST_BITS = 20_000
ROUNDS = 4
"""How often constraints on several inputs narrow the box; each round starts from the box of the previous one."""
NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)
VARIABLE = re.compile(r"([XY])_(0|[1-9]\d{0,8})", re.ASCII)
COMPARISONS = {"<=": (1, False), "<": (1, True), ">=": (-1, False), ">": (-1, True)}
"""Each comparison as the sign of its left side in linear ≤ 0, and whether it is strict."""
Variable = tuple[str, int]


@dataclass(frozen=True)
class Linear:
    """The linear expression Σ terms[v]·v + constant."""

    terms: dict[Variable, Fraction]
    """The coefficient of each variable."""
    constant: Fraction
    """The constant."""

    def times(self, factor: Fraction) -> Linear:
        """The expression times a factor."""
        return combined([self], [factor])


def combined(parts: Sequence[Linear], factors: Sequence[Fraction]) -> Linear:
    """Σ factors[k]·parts[k]."""
    terms: dict[Variable, Fraction] = {}
    constant = Fraction(0)
    for part, factor in zip(parts, factors, strict=True):
        constant += factor * part.constant
        for variable, value in part.terms.items():
            terms[variable] = terms.get(variable, Fraction(0)) + factor * value
    return Linear({v: a for v, a in terms.items() if a}, constant)


@dataclass(frozen=True)
class Inequality:
    """The asserted inequality linear ≤ 0, or < 0 if strict."""

    linear: Linear
    """The left side."""
    strict: bool
    """Whether it is strict."""
    line: int
    """The line of the assertion."""


Conjunction = tuple[Inequality, ...]
ONE = Fraction(1)


def read_vnnlib(path: Path) -> Property:
    """Reads the property of a .vnnlib or .vnnlib.gz file, version 1.0 or 2.0.

    Raises UserError, one line with the line number, for text that is malformed, unbounded, contradictory or not
    accepted.
    """
    return parse_vnnlib(read_text(path), f"'{path}'")


def parse_vnnlib(text: str, where: str = "property") -> Property:
    """The property that a text states; `where` is its name in messages. Raises UserError as `read_vnnlib` does."""
    if not is_version_2(text):
        return _PropertyReader(where, "{}_{}".format).read(parse(text, where))
    query = read_query(text, where)
    stated = _PropertyReader(where, query.shown).read(query.forms())
    return replace(stated, input_shape=query.input.shape, output_shape=query.output.shape)


class _PropertyReader:
    """Builds one property from its top-level lists."""

    def __init__(self, where: str, shown: Callable[[str, int], str]) -> None:
        self.where, self.shown = where, shown
        self.declared: dict[Variable, int] = {}

    def fail(self, line: int, reason: str) -> UserError:
        return UserError(f"{self.where}, line {line}: {reason}")

    def read(self, forms: Iterable[Form]) -> Property:
        common: list[Inequality] = []
        choices: list[Conjunction] = [()]
        for form in forms:
            if form.head == "declare-const":
                self.declare(form)
            elif form.head == "assert":
                if len(form.items) != 2:
                    raise self.fail(form.line, "assert takes one formula")
                cases = self.cases(form.items[1])
                if len(cases) == 1:
                    common += cases[0]
                else:
                    choices = self.product(choices, cases, form.line)
            else:
                raise self.fail(
                    form.line, f"{form.head or '()'!r} is not accepted; accepted: declare-const, assert"
                )
        return self.property(common, choices)

    def declare(self, form: Form) -> None:
        words = [item.text for item in form.items if isinstance(item, Atom)]
        found = VARIABLE.fullmatch(words[1]) if len(words) == len(form.items) == 3 else None
        if found is None or words[2] != "Real":
            raise self.fail(form.line, "expected (declare-const X_i Real) or (declare-const Y_j Real)")
        variable = (found[1], int(found[2]))
        if variable in self.declared:
            raise self.fail(
                form.line, f"{words[1]} is declared twice, first on line {self.declared[variable]}"
            )
        self.declared[variable] = form.line

    # Formulas

    def cases(self, formula: Expression) -> list[Conjunction]:
        """The formula as a disjunction of conjunctions."""
        if isinstance(formula, Atom):
            raise self.fail(formula.line, f"{formula.text[:40]!r} is not a formula; expected and, or, <=, >=")
        operands = formula.items[1:]
        if formula.head in ("and", "or") and not operands:
            raise self.fail(formula.line, f"{formula.head} without operands")
        if formula.head == "or":
            found = [case for operand in operands for case in self.cases(operand)]
            if len(found) > MOST_CLAUSES:
                raise self.fail(formula.line, f"more than {MOST_CLAUSES} disjuncts")
            return found
        if formula.head == "and":
            single: list[Inequality] = []
            joined: list[Conjunction] = [()]
            for operand in operands:
                cases = self.cases(operand)
                if len(cases) == 1:
                    single += cases[0]
                else:
                    joined = self.product(joined, cases, formula.line)
            return self.product(joined, [tuple(single)], formula.line)
        if formula.head == "=":
            return [(*self.comparison(formula, 1, False), *self.comparison(formula, -1, False))]
        if formula.head not in COMPARISONS:
            raise self.fail(
                formula.line, f"{formula.head or '()'!r} is not a formula; accepted: and, or, <=, >=, <, >, ="
            )
        return [self.comparison(formula, *COMPARISONS[formula.head])]

    def comparison(self, formula: Form, sign: int, strict: bool) -> Conjunction:
        if len(formula.items) != 3:
            raise self.fail(formula.line, f"{formula.head} compares two expressions")
        sides = [self.linear(item) for item in formula.items[1:]]
        return (Inequality(combined(sides, [sign * ONE, -sign * ONE]), strict, formula.line),)

    def product(self, left: list[Conjunction], right: list[Conjunction], line: int) -> list[Conjunction]:
        if len(left) * len(right) > MOST_CLAUSES:
            raise self.fail(line, f"the disjunctions multiply to more than {MOST_CLAUSES} cases")
        if len(right) * sum(map(len, left)) + len(left) * sum(map(len, right)) > MOST_ATOMS:
            raise self.fail(line, f"the disjunctions multiply to more than {MOST_ATOMS} comparisons")
        return [a + b for a in left for b in right]

    # Expressions

    def linear(self, expression: Expression) -> Linear:
        if isinstance(expression, Atom):
            return self.atom(expression)
        head, operands = expression.head, [self.linear(item) for item in expression.items[1:]]
        if head not in ("+", "-", "*") or not operands:
            raise self.fail(
                expression.line, f"{head or '()'!r} is not a linear expression; accepted: +, -, * of operands"
            )
        if head == "+":
            return combined(operands, [ONE] * len(operands))
        if head == "-":
            first = ONE if len(operands) > 1 else -ONE
            return combined(operands, [first] + [-ONE] * (len(operands) - 1))
        product = operands[0]
        for operand in operands[1:]:
            if product.terms and operand.terms:
                raise self.fail(expression.line, "a product of variables; only linear ones are accepted")
            product = product.times(operand.constant) if product.terms else operand.times(product.constant)
            if max(self.bits(value) for value in (product.constant, *product.terms.values())) > MOST_BITS:
                raise self.fail(expression.line, f"a product with a number of more than {MOST_BITS} bits")
        return product

    def bits(self, value: Fraction) -> int:
        return max(value.numerator.bit_length(), value.denominator.bit_length())

    def atom(self, atom: Atom) -> Linear:
        if NUMBER.fullmatch(atom.text):
            return Linear({}, Fraction(atom.text))
        found = VARIABLE.fullmatch(atom.text)
        if found is None:
            raise self.fail(
                atom.line, f"{atom.text[:40]!r} is neither a decimal number nor a variable X_i, Y_j"
            )
        variable = (found[1], int(found[2]))
        if variable not in self.declared:
            raise self.fail(atom.line, f"{atom.text} is not declared")
        return Linear({variable: Fraction(1)}, Fraction(0))

    # The property

    def property(self, common: list[Inequality], choices: list[Conjunction]) -> Property:
        inputs, outputs = self.count("X"), self.count("Y")
        sides: list[list[Fraction | None]] = [[None, None] for _ in range(inputs)]
        shared = self.gather(common, sides)
        reading = [any(self.kinds(inequality) == {"X"} for inequality in case) for case in choices]
        if sum(reading) * inputs > MOST_ATOMS:
            raise UserError(
                f"{self.where}: {sum(reading)} boxes of {inputs} inputs; at most {MOST_ATOMS} sides"
            )
        common_box = None if all(reading) else self.box(sides, shared)
        clauses = []
        for case, own in zip(choices, reading, strict=True):
            narrowed = [list(side) for side in sides] if own else sides
            constraints = shared + self.gather(case, narrowed)
            if not any(constraint.coef for constraint in constraints):
                raise UserError(f"{self.where}: a case without a constraint on any output")
            box = self.box(narrowed, constraints) if own else common_box
            if box is not None:
                clauses.append(Clause(box, constraints))
        return Property(inputs, outputs, tuple(clauses))

    def box(self, sides: list[list[Fraction | None]], constraints: tuple[Constraint, ...]) -> Box | None:
        """The box that the sides and the constraints on inputs alone imply; None if it contains no input."""
        alone = [one for one in constraints if one.inputs and not one.coef]
        for _ in range(ROUNDS if alone else 0):
            for one in alone:
                narrow(one, sides)
        crossed = any(low is not None and high is not None and low > high for low, high in sides)
        return None if crossed else Box(tuple(self.pairs(sides)))

    def count(self, kind: str) -> int:
        indices = {index for letter, index in self.declared if letter == kind}
        if not indices:
            raise UserError(f"{self.where}: no variable {kind}_0 is declared")
        missing = next((i for i in range(len(indices)) if i not in indices), None)
        if missing is not None:
            line = self.declared[kind, max(indices)]
            raise self.fail(line, f"{kind}_{max(indices)} is declared, {kind}_{missing} is not")
        return len(indices)

    def kinds(self, inequality: Inequality) -> set[str]:
        """The kinds of variables in an inequality: X, Y or both."""
        return {kind for kind, _ in inequality.linear.terms}

    def gather(
        self, inequalities: list[Inequality] | Conjunction, sides: list[list[Fraction | None]]
    ) -> tuple[Constraint, ...]:
        """Narrows `sides` by bounds of single inputs; returns the constraints that the sides do not express."""
        constraints = []
        for inequality in inequalities:
            terms, bound = inequality.linear.terms, -inequality.linear.constant
            if not terms:
                raise self.fail(inequality.line, "a comparison without a variable")
            coef, inputs = (
                tuple(sorted((index, value) for (kind, index), value in terms.items() if kind == letter))
                for letter in "YX"
            )
            constraint = Constraint(coef, bound, inequality.strict, inputs)
            single = not coef and len(inputs) == 1
            if single:
                narrow(constraint, sides)
            if not single or inequality.strict:
                constraints.append(constraint)
        return tuple(constraints)

    def pairs(self, sides: list[list[Fraction | None]]) -> Iterator[Interval]:
        for index, (low, high) in enumerate(sides):
            if low is None or high is None:
                side = "lower" if low is None else "upper"
                raise self.fail(self.declared["X", index], f"{self.shown('X', index)} has no {side} bound")
            yield low, high


def narrow(constraint: Constraint, sides: list[list[Fraction | None]]) -> None:
    """Narrows sides [lower, upper] of inputs by Σ aᵢ·X_i ≤ bound: aᵢ·X_i is at most bound minus the minimum of the
    others.
    """
    least = [sides[i][int(a < 0)] for i, a in constraint.inputs]
    terms = [None if end is None else a * end for (_, a), end in zip(constraint.inputs, least, strict=True)]
    unknown = [place for place, term in enumerate(terms) if term is None]
    if len(unknown) > 1:
        return
    total = sum((term for term in terms if term is not None), Fraction(0))
    for place in unknown or range(len(terms)):
        index, factor = constraint.inputs[place]
        limit = (constraint.bound - total + (terms[place] or 0)) / factor
        side, old = int(factor > 0), sides[index][int(factor > 0)]
        if old is None or (limit < old if side else limit > old):
            sides[index][side] = limit
