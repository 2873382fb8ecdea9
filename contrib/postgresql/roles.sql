-- The roles of a risk_store database on PostgreSQL 14 or newer: who may change what.
--
--   owner   owns the tables. Upgrades the schema and prunes the log: risk-store upgrade, prune, copy.
--   writer  the trading daemon. Adds to the log and cannot change or delete what is there; keeps up the mirror of
--           orders, positions and trades, the lockouts, the enforcements in flight and the roll-up of the log.
--   reader  reports, dashboards, Grafana. SELECT and nothing else; read-only by default, with a statement timeout.
--
-- Run it as a superuser, in the store's database, before the first upgrade and again after each one:
--
--   psql -d risk -f roles.sql
--   risk-store upgrade postgresql+psycopg://risk_store_owner@host/risk
--   psql -d risk -f roles.sql
--
-- It can be run as often as one likes: it makes what is missing, and puts right what was changed by hand on the store's
-- own tables. It touches no other tables, and sets no password; do that afterwards (\password risk_store_reader), or
-- let pg_hba.conf decide who may log in. Names and the schema can be chosen:
--
--   psql -d risk -v schema=risk -v owner=r_owner -v writer=r_writer -v reader=r_reader -v timeout=5s -f roles.sql
--
-- In a database that other programs use too, add -v shared=yes: then what PUBLIC may do stays as it is (before
-- PostgreSQL 15 everybody may make tables in the schema public, and everywhere everybody may make temporary ones).

\set ON_ERROR_STOP on
\if :{?owner}   \else \set owner   risk_store_owner  \endif
\if :{?writer}  \else \set writer  risk_store_writer \endif
\if :{?reader}  \else \set reader  risk_store_reader \endif
\if :{?schema}  \else \set schema  public            \endif
\if :{?timeout} \else \set timeout 10s               \endif

BEGIN;
SET LOCAL client_min_messages = warning;

-- The roles log in themselves: settings such as the statement timeout are not inherited by members of a role.
SELECT format('CREATE ROLE %I LOGIN', name)
FROM unnest(ARRAY[:'owner', :'writer', :'reader']) AS name
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name)
\gexec

CREATE SCHEMA IF NOT EXISTS :"schema";

GRANT CONNECT ON DATABASE :"DBNAME" TO :"owner", :"writer", :"reader";
GRANT USAGE ON SCHEMA :"schema" TO :"owner", :"writer", :"reader";
GRANT CREATE ON SCHEMA :"schema" TO :"owner";
REVOKE CREATE ON SCHEMA :"schema" FROM :"writer", :"reader";
\if :{?shared}
\else
REVOKE CREATE ON SCHEMA :"schema" FROM PUBLIC;
REVOKE CREATE, TEMPORARY ON DATABASE :"DBNAME" FROM PUBLIC;
\endif

-- What the writer may do with each table. What is not here is the owner's: UPDATE and DELETE of the log above all, and
-- TRUNCATE everywhere. SELECT comes with every write, since each looks at what is there first.
CREATE TEMPORARY TABLE risk_store_tables (name text PRIMARY KEY, writer_may text NOT NULL) ON COMMIT DROP;
INSERT INTO risk_store_tables VALUES
    ('enforcement_log',          'SELECT, INSERT'),
    -- A row is there from the beginning of an enforcement to its end.
    ('enforcement_in_flight',    'SELECT, INSERT, DELETE'),
    -- A lockout that is over is marked, and its row used again.
    ('lockouts',                 'SELECT, INSERT, UPDATE'),
    ('orders',                   'SELECT, INSERT, UPDATE'),
    ('positions',                'SELECT, INSERT, UPDATE, DELETE'),
    ('closed_positions',         'SELECT, INSERT, UPDATE, DELETE'),
    -- A trade that the venue takes back is marked as voided.
    ('trade_history',            'SELECT, INSERT, UPDATE'),
    ('daily_pnl',                'SELECT, INSERT, UPDATE'),
    ('contract_cache',           'SELECT, INSERT, UPDATE'),
    ('session_state',            'SELECT, INSERT, UPDATE'),
    ('reset_schedule',           'SELECT, INSERT, UPDATE'),
    -- The roll-up of the log: risk-store roll-up counts what is new. Only pruning deletes what was counted.
    ('enforcement_hours',        'SELECT, INSERT, UPDATE'),
    ('enforcement_day_times',    'SELECT, INSERT, UPDATE'),
    ('enforcement_times',        'SELECT, INSERT, UPDATE'),
    ('enforcement_time_buckets', 'SELECT, INSERT, UPDATE'),
    -- Ranges of ids that grow together; the right to delete carries the lock that lets one roll up at a time.
    ('enforcement_rolled_up',    'SELECT, INSERT, DELETE'),
    ('risk_store_version',       'SELECT');

CREATE TEMPORARY VIEW risk_store_found AS
    SELECT name, writer_may, class.relowner
    FROM risk_store_tables
    JOIN pg_class AS class ON class.relname = name AND class.relkind IN ('r', 'p')
    JOIN pg_namespace AS namespace ON namespace.oid = class.relnamespace AND namespace.nspname = :'schema';

-- Tables that somebody else made, such as a superuser who ran the first upgrade.
SELECT format('ALTER TABLE %I.%I OWNER TO %I', :'schema', name, :'owner')
FROM risk_store_found
WHERE pg_get_userbyid(relowner) <> :'owner'
\gexec

SELECT format('REVOKE ALL ON %I.%I FROM PUBLIC, %I, %I', :'schema', name, :'writer', :'reader'),
       format('GRANT %s ON %I.%I TO %I', writer_may, :'schema', name, :'writer'),
       format('GRANT SELECT ON %I.%I TO %I', :'schema', name, :'reader')
FROM risk_store_found
\gexec

-- A roll-up ends with ANALYZE of that one small table. Before PostgreSQL 17 only its owner can do that: the server warns
-- the writer and goes on, and reports may be slow until autovacuum has been there. Let the owner roll up then.
SELECT :SERVER_VERSION_NUM >= 170000 AS has_maintain \gset
\if :has_maintain
SELECT format('GRANT MAINTAIN ON %I.%I TO %I', :'schema', name, :'writer')
FROM risk_store_found
WHERE name = 'enforcement_rolled_up'
\gexec
\endif

DROP VIEW risk_store_found;

-- Tables that a later revision makes, until this script is run again: the least that is surely right for both.
ALTER DEFAULT PRIVILEGES FOR ROLE :"owner" IN SCHEMA :"schema" GRANT SELECT, INSERT ON TABLES TO :"writer";
ALTER DEFAULT PRIVILEGES FOR ROLE :"owner" IN SCHEMA :"schema" GRANT SELECT ON TABLES TO :"reader";

-- A second lock behind the missing privileges, which a session can open for itself, and a bound for a query that
-- somebody typed into a dashboard. (The timeout is the reader's alone: the store bounds its own writes.)
ALTER ROLE :"reader" IN DATABASE :"DBNAME" SET default_transaction_read_only = on;
ALTER ROLE :"reader" IN DATABASE :"DBNAME" SET statement_timeout = :'timeout';
ALTER ROLE :"reader" IN DATABASE :"DBNAME" SET idle_in_transaction_session_timeout = '1min';

-- The store names its tables without a schema.
SELECT format('ALTER ROLE %I IN DATABASE %I SET search_path = %I', name, :'DBNAME', :'schema')
FROM unnest(ARRAY[:'owner', :'writer', :'reader']) AS name
WHERE :'schema' <> 'public'
\gexec

COMMIT;
