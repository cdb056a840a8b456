-- An order is placed when it has an amount; before that, a request has claimed it, or gave it up.
CREATE TABLE orders (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    customer text NOT NULL,
    key text NOT NULL,  -- the customer's Idempotency-Key
    item text NOT NULL,
    quantity integer NOT NULL CHECK (quantity > 0),
    amount bigint CHECK (amount > 0),  -- whole euros
    claimed_by uuid NOT NULL,
    claimed_until timestamptz NOT NULL,
    made_at timestamptz NOT NULL DEFAULT now(),
    placed_at timestamptz,
    ended_at timestamptz,  -- nobody finished it, and nothing of it is left
    UNIQUE (customer, key),
    CHECK ((amount IS NULL) = (placed_at IS NULL))
);

-- Those that nobody has finished: looked for twice a minute.
CREATE INDEX ON orders (claimed_until) WHERE placed_at IS NULL AND ended_at IS NULL;

-- The users that are made for the service are members of this role; the platform creates it (NOLOGIN).
GRANT USAGE ON SCHEMA orders TO order_service;
GRANT SELECT ON schema_migrations TO order_service;
GRANT SELECT, INSERT ON orders TO order_service;
GRANT UPDATE (amount, claimed_by, claimed_until, placed_at, ended_at) ON orders TO order_service;
