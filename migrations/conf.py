"""Configure the command pw_migrate to use the same history table as aicontent.migrate()."""

MIGRATE_TABLE = "aicontent_migratehistory"
