"""For the command line of schemathesis: each request comes from an address that nobody has counted yet."""

import itertools

import schemathesis

_numbers = itertools.count(1)


@schemathesis.hook
def before_call(_context, case, _kwargs):
    number = next(_numbers)
    case.headers = dict(case.headers or {}) | {"x-forwarded-for": f"10.77.{number >> 8 & 255}.{number & 255}"}
