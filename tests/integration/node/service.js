// A service on the specification's Objection.js model, to the letter.
// As a command: node service.js URL USER_ID; it prints one JSON object with what it saw.

'use strict';

const { randomUUID } = require('node:crypto');
const createKnex = require('knex');
const { Model, raw } = require('objection');

const HOUR = 60 * 60 * 1000;

class User extends Model {
  static tableName = 'users';
}

class AIGeneratedContent extends Model {
  static tableName = 'ai_generated_content';

  // Relationships
  static relationMappings = {
    user: {
      relation: Model.BelongsToOneRelation,
      modelClass: User,
      join: {
        from: 'ai_generated_content.userId',
        to: 'users.id'
      }
    }
  };

  // JSON schema for validation
  static jsonSchema = {
    type: 'object',
    required: ['id', 'userId', 'type', 'status', 'requestPayload'],
    properties: {
      id: { type: 'string', maxLength: 36 },
      userId: { type: 'integer' },
      type: {
        type: 'string',
        enum: ['lesson', 'vocabulary_drill', 'grammar_exercise', 'cultural_content', 'personalized_exercise', 'pronunciation_drill', 'conversation_practice']
      },
      status: {
        type: 'string',
        enum: ['pending', 'generating', 'completed', 'failed', 'cached']
      },
      requestPayload: { type: 'object' },
      generatedData: { type: ['object', 'null'] },
      validationResults: { type: ['object', 'null'] },
      metadata: { type: ['object', 'null'] },
      level: { type: ['string', 'null'], maxLength: 10 },
      topics: { type: ['array', 'null'] },
      focusAreas: { type: ['array', 'null'] },
      estimatedCompletionTime: { type: ['integer', 'null'], minimum: 0 },
      validationScore: { type: ['number', 'null'], minimum: 0, maximum: 1 },
      generationTimeMs: { type: ['integer', 'null'], minimum: 0 },
      tokenUsage: { type: ['integer', 'null'], minimum: 0 },
      modelUsed: { type: ['string', 'null'], maxLength: 50 },
      usageCount: { type: 'integer', minimum: 0, default: 0 },
      lastAccessedAt: { type: ['string', 'null'], format: 'date-time' },
      expiresAt: { type: ['string', 'null'], format: 'date-time' }
    }
  };

  // Hooks
  $beforeInsert() {
    this.createdAt = new Date();
    this.updatedAt = new Date();
    if (!this.usageCount) {
      this.usageCount = 0;
    }
  }

  $beforeUpdate() {
    this.updatedAt = new Date();
  }

  // Helper methods
  isExpired() {
    return this.expiresAt ? new Date() > this.expiresAt : false;
  }

  markAccessed() {
    this.lastAccessedAt = new Date();
    this.usageCount += 1;
  }

  isReusable() {
    return this.status === 'completed' && !this.isExpired();
  }

  // Static methods for common queries
  static findByUserAndType(userId, type) {
    return this.query()
      .where('userId', userId)
      .where('type', type)
      .orderBy('createdAt', 'desc');
  }

  static findReusableContent(userId, type, level) {
    let query = this.query()
      .where('userId', userId)
      .where('type', type)
      .where('status', 'completed')
      .where(function() {
        this.whereNull('expiresAt').orWhere('expiresAt', '>', new Date());
      });

    if (level) {
      query = query.where('level', level);
    }

    return query.orderBy('usageCount', 'asc').orderBy('createdAt', 'desc');
  }

  static cleanup() {
    return this.query()
      .delete()
      .where('expiresAt', '<', new Date())
      .orWhere(function() {
        this.where('status', 'failed')
          .where('createdAt', '<', new Date(Date.now() - 24 * 60 * 60 * 1000)); // 24 hours ago
      });
  }
}

// What the command stores, by the name under which the test looks for it.
function samples(userId) {
  const row = (values) => ({
    id: randomUUID(),
    userId,
    type: 'lesson',
    status: 'completed',
    requestPayload: { topic: 'café' },
    ...values
  });
  return {
    full: row({
      type: 'vocabulary_drill',
      requestPayload: { topic: 'naïve 日本 🎓', nested: [[], {}, [{ deep: [null, true] }]], '': 0 },
      generatedData: { words: ['"quoted"', 'back\\slash', '{a,b}'], largest: Number.MAX_SAFE_INTEGER },
      validationResults: { passed: true, scores: [0.1, 1e-7, -2.5] },
      metadata: {},
      level: 'A2',
      topics: ['comida', 'viajes'],
      focusAreas: [],
      estimatedCompletionTime: 15,
      validationScore: 0.87,
      generationTimeMs: 2300,
      tokenUsage: 1800,
      modelUsed: 'some-model',
      lastAccessedAt: new Date(Date.now() - HOUR).toISOString(),
      expiresAt: new Date(Date.now() + HOUR).toISOString()
    }),
    lesson: row({ level: 'A2', generatedData: null }),
    used: row({ level: 'A2', usageCount: 3 }),
    otherLevel: row({ level: 'B1' }),
    patched: row({ type: 'grammar_exercise', status: 'generating' }),
    expired: row({ level: 'A2', expiresAt: new Date(Date.now() - HOUR).toISOString() }),
    failed: row({ status: 'failed' }),
    recent: row({ status: 'failed' })
  };
}

async function store(knex, written) {
  for (const row of Object.values(written)) {
    await AIGeneratedContent.query().insert(row);
  }
  // Not through the model: its hook sets createdAt.
  await knex('ai_generated_content')
    .where('id', written.failed.id)
    .update({ createdAt: new Date(Date.now() - 25 * HOUR) });
}

// CURRENT_TIMESTAMP is the same throughout a transaction, to the microsecond: the trigger's
// value equals it, a Date of the model's hook does not.
function patch(id, changes) {
  return AIGeneratedContent.transaction(async (trx) => {
    const count = await AIGeneratedContent.query(trx).findById(id).patch(changes);
    const row = await AIGeneratedContent.query(trx)
      .findById(id)
      .select('status', 'metadata', raw('"updatedAt" = CURRENT_TIMESTAMP').as('setByTrigger'));
    return { count, ...row.toJSON() };
  });
}

async function access(id) {
  const row = await AIGeneratedContent.query().findById(id);
  row.markAccessed();
  await row.$query().patch();
  return AIGeneratedContent.query().findById(id);
}

function all() {
  return AIGeneratedContent.query().orderBy('id');
}

async function ids(query) {
  return (await query).map((row) => row.id);
}

async function run(knex, userId) {
  const received = await all();
  const written = samples(userId);
  await store(knex, written);
  const stored = await all();
  const { user } = await AIGeneratedContent.query().findById(written.full.id).withGraphFetched('user');
  return {
    received,
    written,
    user,
    reusable: await ids(AIGeneratedContent.findReusableContent(userId, 'lesson')),
    reusableOfLevel: await ids(AIGeneratedContent.findReusableContent(userId, 'lesson', 'A2')),
    expired: stored.filter((row) => row.isExpired()).map((row) => row.id),
    unusable: stored.filter((row) => !row.isReusable()).map((row) => row.id),
    ofType: await ids(AIGeneratedContent.findByUserAndType(userId, 'lesson')),
    patched: await patch(written.patched.id, { status: 'cached', metadata: { model: 'another' } }),
    accessed: await access(written.used.id),
    counted: await AIGeneratedContent.query().resultSize(),
    deleted: await AIGeneratedContent.cleanup(),
    left: await all()
  };
}

async function main(url, userId) {
  const knex = createKnex({ client: 'pg', connection: { connectionString: url } });
  Model.knex(knex);
  try {
    console.log(JSON.stringify(await run(knex, Number(userId))));
  } finally {
    await knex.destroy();
  }
}

module.exports = { AIGeneratedContent, User };

if (require.main === module) {
  main(process.argv[2], process.argv[3]).catch((error) => {
    console.error(error);
    process.exitCode = 1;
  });
}
