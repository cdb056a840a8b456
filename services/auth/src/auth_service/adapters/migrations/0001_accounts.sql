CREATE TABLE users (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name text NOT NULL UNIQUE CHECK (name = lower(name)),
    password_hash text NOT NULL,
    disabled boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE roles (
    name text PRIMARY KEY CHECK (name <> '')
);

CREATE TABLE role_permissions (
    role text NOT NULL REFERENCES roles ON DELETE CASCADE,
    permission text NOT NULL CHECK (permission <> ''),
    PRIMARY KEY (role, permission)
);

CREATE TABLE user_roles (
    user_id uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    role text NOT NULL REFERENCES roles ON DELETE CASCADE,
    PRIMARY KEY (user_id, role)
);

-- From a login to its logout.
CREATE TABLE sessions (
    id uuid PRIMARY KEY,
    user_id uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    created_at timestamptz NOT NULL,
    ends_at timestamptz NOT NULL,
    ended_at timestamptz
);
CREATE INDEX sessions_of_user ON sessions (user_id);
CREATE INDEX sessions_by_end ON sessions (ends_at);

-- SHA-256 of 256 random bits; the token itself is stored nowhere.
CREATE TABLE refresh_tokens (
    hash bytea PRIMARY KEY,
    session_id uuid NOT NULL REFERENCES sessions ON DELETE CASCADE,
    expires_at timestamptz NOT NULL,
    used_at timestamptz,
    successor bytea
);
CREATE INDEX refresh_tokens_of_session ON refresh_tokens (session_id);
