"""Runs the examples in the docstrings of the public API, in a running event loop as a notebook has one."""

import asyncio
import doctest
import sys

import hashkiln


async def main() -> None:
    finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for name in sys.argv[1:]:
        (example,) = (test for test in finder.find(getattr(hashkiln, name), name, globs={}) if test.examples)
        runner.run(example)
    print(runner.summarize())


asyncio.run(main())
