"""What can go wrong with PostgreSQL, said in terms of what to do next. No message quotes the server or a value."""


class PostgresError(Exception):
    """Base of what the pool raises on purpose."""


class UnavailableError(PostgresError):
    """It may work in a moment: no connection, nobody is let in, too busy."""


class MigrationError(PostgresError):
    """The database can't be brought up to date like this; the text says why."""


class RefusedError(PostgresError):
    """PostgreSQL understood and refused; the same again won't help. `sqlstate` says why, such as 23505 (not unique)."""

    def __init__(self, sqlstate: str | None) -> None:
        super().__init__(f"the database refuses ({sqlstate or 'before it was sent'})")
        self.sqlstate = sqlstate
