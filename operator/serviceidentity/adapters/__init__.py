"""The outside world: each adapter implements ports of `app` and translates every foreign exception into `errors`."""
