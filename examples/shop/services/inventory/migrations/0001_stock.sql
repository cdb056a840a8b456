CREATE TABLE stock (
    item text PRIMARY KEY,
    quantity integer NOT NULL CHECK (quantity >= 0),
    price integer NOT NULL CHECK (price > 0)  -- whole euros
);

-- What was taken out of the stock for an order, at the price of that moment.
CREATE TABLE reservations (
    order_id uuid PRIMARY KEY,
    customer text NOT NULL,
    item text NOT NULL REFERENCES stock,
    quantity integer NOT NULL CHECK (quantity > 0),
    price integer NOT NULL,
    reserved_at timestamptz NOT NULL DEFAULT now()
);

-- The users that are made for the service are members of this role; the platform creates it (NOLOGIN).
GRANT USAGE ON SCHEMA inventory TO inventory_service;
GRANT SELECT ON schema_migrations TO inventory_service;
GRANT SELECT, INSERT, UPDATE ON stock TO inventory_service;
GRANT SELECT, INSERT, DELETE ON reservations TO inventory_service;
