// The specification's Knex migration, to the letter: the reference for ours.
// As a command: node migration.js URL. The users table must be there.

'use strict';

const createKnex = require('knex');

exports.up = async function up(knex) {
  await knex.schema.createTable('ai_generated_content', (table) => {
    // Primary key using UUID for better distribution
    table.string('id', 36).primary().notNullable();

    // User association
    table.integer('userId').notNullable().references('id').inTable('users').onDelete('CASCADE');

    // Content classification
    table.enum('type', [
      'lesson',
      'vocabulary_drill',
      'grammar_exercise',
      'cultural_content',
      'personalized_exercise',
      'pronunciation_drill',
      'conversation_practice'
    ]).notNullable();

    // Generation status
    table.enum('status', [
      'pending',
      'generating',
      'completed',
      'failed',
      'cached'
    ]).notNullable().defaultTo('pending');

    // Content data - flexible JSON storage
    table.json('requestPayload').notNullable().comment('Original ContentRequest data');
    table.json('generatedData').nullable().comment('Final structured content');
    table.json('validationResults').nullable().comment('Results from ContentValidator');
    table.json('metadata').nullable().comment('Generation metadata (timing, model, etc.)');

    // Learning context
    table.string('level', 10).nullable().comment('User level when content was generated');
    table.json('topics').nullable().comment('Array of topics covered');
    table.json('focusAreas').nullable().comment('Areas of focus for personalization');

    // Performance and caching
    table.integer('estimatedCompletionTime').nullable().comment('Estimated time in minutes');
    table.float('validationScore').nullable().comment('Content validation score 0-1');
    table.integer('generationTimeMs').nullable().comment('Time taken to generate in milliseconds');
    table.integer('tokenUsage').nullable().comment('AI tokens used for generation');
    table.string('modelUsed', 50).nullable().comment('AI model used for generation');

    // Usage tracking
    table.integer('usageCount').defaultTo(0).comment('How many times this content was accessed');
    table.datetime('lastAccessedAt').nullable().comment('When content was last accessed');
    table.datetime('expiresAt').nullable().comment('When cached content expires');

    // Audit fields
    table.datetime('createdAt').defaultTo(knex.fn.now()).notNullable();
    table.datetime('updatedAt').defaultTo(knex.fn.now()).notNullable();

    // Indexes for performance
    table.index(['userId', 'type'], 'idx_ai_content_user_type');
    table.index(['status'], 'idx_ai_content_status');
    table.index(['type', 'level'], 'idx_ai_content_type_level');
    table.index(['createdAt'], 'idx_ai_content_created');
    table.index(['expiresAt'], 'idx_ai_content_expires');
    table.index(['usageCount'], 'idx_ai_content_usage');

    // Composite index for cache lookups
    table.index(['userId', 'type', 'level', 'status'], 'idx_ai_content_cache_lookup');
  });

  // Add trigger to update updatedAt timestamp
  await knex.raw(`
    CREATE OR REPLACE FUNCTION update_updated_at_column()
    RETURNS TRIGGER AS $$
    BEGIN
        NEW."updatedAt" = CURRENT_TIMESTAMP;
        RETURN NEW;
    END;
    $$ language 'plpgsql';
  `);

  await knex.raw(`
    CREATE TRIGGER update_ai_generated_content_updated_at
    BEFORE UPDATE ON ai_generated_content
    FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();
  `);
};

exports.down = async function down(knex) {
  await knex.raw('DROP TRIGGER IF EXISTS update_ai_generated_content_updated_at ON ai_generated_content;');
  await knex.raw('DROP FUNCTION IF EXISTS update_updated_at_column();');
  await knex.schema.dropTableIfExists('ai_generated_content');
};

async function main(url) {
  const knex = createKnex({ client: 'pg', connection: { connectionString: url } });
  try {
    await exports.up(knex);
  } finally {
    await knex.destroy();
  }
}

if (require.main === module) {
  main(process.argv[2]).catch((error) => {
    console.error(error);
    process.exitCode = 1;
  });
}
