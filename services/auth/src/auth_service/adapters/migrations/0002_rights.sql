-- The users that are made for the service are members of this role; the platform creates it (NOLOGIN).
GRANT USAGE ON SCHEMA auth TO auth_service;
GRANT SELECT ON users, roles, role_permissions, user_roles, schema_migrations TO auth_service;
GRANT UPDATE (password_hash) ON users TO auth_service;
GRANT SELECT, INSERT, DELETE ON sessions, refresh_tokens TO auth_service;
GRANT UPDATE (ended_at) ON sessions TO auth_service;
GRANT UPDATE (used_at, successor) ON refresh_tokens TO auth_service;
