-- Runs in the schema of a new generation when its tables exist. Each table gets a column with a checksum of the row, which
-- a trigger sets while the server writes, and a view of the same name in the schema `<schema>_checked`. Readers use the
-- views, which compare the checksum of each row that they return: a row that another program has changed or added is an
-- error, as damaged data are (XX001). Deleted rows leave nothing to compare, so they remove the view of their table.
DO $do$
DECLARE
    checked TEXT := current_schema() || '_checked';
    stored  RECORD;
BEGIN
    EXECUTE format('CREATE SCHEMA %I', checked);
    -- Not immutable: it would be evaluated when a query is planned.
    CREATE FUNCTION damaged_row(name TEXT) RETURNS BOOLEAN LANGUAGE plpgsql VOLATILE PARALLEL SAFE AS $$
    BEGIN
        RAISE EXCEPTION 'a row of % is not what was written', name USING ERRCODE = 'XX001';
    END $$;
    CREATE FUNCTION remove_view() RETURNS TRIGGER LANGUAGE plpgsql AS $$
    BEGIN
        EXECUTE format('DROP VIEW IF EXISTS %I.%I', TG_TABLE_SCHEMA || '_checked', TG_TABLE_NAME);
        RETURN NULL;
    END $$;
    FOR stored IN
        SELECT CAST(class.relname AS TEXT) AS name,
            string_agg(quote_ident(attname), ', ' ORDER BY attnum) AS columns,
            string_agg('NEW.' || quote_ident(attname), ', ' ORDER BY attnum) AS new_columns
        FROM pg_class AS class JOIN pg_attribute ON attrelid = class.oid AND attnum > 0 AND NOT attisdropped
        WHERE relnamespace = CAST(current_schema() AS regnamespace) AND relkind = 'r'
        GROUP BY class.relname
    LOOP
        EXECUTE format('ALTER TABLE %I ADD COLUMN row_checksum BIGINT', stored.name);
        EXECUTE format(
            'CREATE FUNCTION %I() RETURNS TRIGGER LANGUAGE plpgsql AS $$ BEGIN '
            'NEW.row_checksum := hash_record_extended(ROW(%s), 0); RETURN NEW; END $$',
            'set_checksum_of_' || stored.name, stored.new_columns);
        EXECUTE format(
            'CREATE TRIGGER set_checksum BEFORE INSERT OR UPDATE ON %I FOR EACH ROW '
            'WHEN (current_setting(''matchbook.writes'', TRUE) = ''on'') EXECUTE FUNCTION %I()',
            stored.name, 'set_checksum_of_' || stored.name);
        EXECUTE format(
            'CREATE TRIGGER foreign_delete AFTER DELETE ON %I FOR EACH STATEMENT '
            'WHEN (current_setting(''matchbook.writes'', TRUE) IS DISTINCT FROM ''on'') EXECUTE FUNCTION remove_view()',
            stored.name);
        EXECUTE format(
            'CREATE TRIGGER foreign_truncate AFTER TRUNCATE ON %I FOR EACH STATEMENT '
            'WHEN (current_setting(''matchbook.writes'', TRUE) IS DISTINCT FROM ''on'') EXECUTE FUNCTION remove_view()',
            stored.name);
        EXECUTE format(
            'CREATE VIEW %I.%I AS SELECT %s FROM %I WHERE CASE '
            'WHEN row_checksum = hash_record_extended(ROW(%s), 0) THEN TRUE ELSE damaged_row(%L) END',
            checked, stored.name, stored.columns, stored.name, stored.columns, stored.name);
    END LOOP;
END $do$;
