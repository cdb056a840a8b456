CREATE TABLE payments (
    order_id uuid PRIMARY KEY,  -- one payment an order
    customer text NOT NULL,
    amount bigint NOT NULL CHECK (amount > 0),  -- whole euros
    reference text NOT NULL,  -- the provider's
    paid_at timestamptz NOT NULL DEFAULT now()
);

-- The users that are made for the service are members of this role; the platform creates it (NOLOGIN).
-- Payments are added and read; nobody changes them.
GRANT USAGE ON SCHEMA payments TO payment_service;
GRANT SELECT ON schema_migrations TO payment_service;
GRANT SELECT, INSERT ON payments TO payment_service;
