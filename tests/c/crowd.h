/* crowd.h: crowds of clients of every kind, with system calls and memory that fail: for every driver that ka_engine.h can be
 * written over.
 *
 * A crowd has a scene and a seed: ENGINE_SEEDS=FROM-TO in the environment asks for others than the few of the test
 * suite, ENGINE_SCENE="few buffers" for one scene only. */
#ifndef CROWD_H
#define CROWD_H

#include <dirent.h>

#include "engine_driver.h"

static int open_descriptors(void)
{
    int n = 0;
    DIR *dir = opendir("/proc/self/fd");
    while (dir && readdir(dir))
        n++;
    if (dir)
        closedir(dir);
    return n;
}

static void step(server *s)
{
    faults.is_on = 1;
    for (int i = 0; i < 4; i++)
        if (ka_engine_step(s->engine) <= 0)
            break;
    act_late(s);
    faults.is_on = 0;
}

static void no_faults(uint64_t seed) { faults = (fault_plan){.state = seed * 0x9e3779b9 + 1, .longest_run = 4}; }

/* --- the crowd --- */

typedef struct {
    const char *name;
    unsigned permille[N_FAULTS];
    uint32_t max_connections;
    size_t max_buffer_bytes;
    int loses_nothing; /* no good client may lose a request */
    int64_t handler_ns;
} scene;

static const scene scenes[] = {
    {"calm", {0}, 1000, 64 << 20, 1, 5 * S},
    {"full", {0}, 12, 64 << 20, 1, 5 * S},
    {"system calls", {60, 60, 100, 30, 100, 0}, 1000, 64 << 20, 1, 5 * S},
    {"system calls, full", {0, 60, 200, 60, 300, 0}, 12, 64 << 20, 1, 5 * S},
    {"memory", {0, 0, 0, 0, 0, 30}, 1000, 64 << 20, 0, 0},
    {"few buffers", {0}, 40, 256 << 10, 0, 0},
    {"everything", {60, 60, 100, 60, 200, 20}, 20, 512 << 10, 0, 0},
};

static void arrive(client *c, const server *s, const scene *scene, uint64_t *random)
{
    *c = (client){.fd = -1};
    if (!client_connect(c, s))
        return;
    c->manner = (manner)(faults_random(random) % 6);
    if (c->manner >= N_MANNERS)
        c->manner = GOOD;
    unsigned n = 1 + (unsigned)(faults_random(random) % N_ASKED);
    for (unsigned i = 0; i < n; i++) {
        const char *kinds = i + 1 == n && faults_random(random) % 3 == 0 ? ENDS : GOES_ON;
        char kind = kinds[faults_random(random) % strlen(kinds)];
        if (kind == 'm' && scene->handler_ns == 0)
            kind = 'n';
        ask(c, kind, (unsigned)(faults_random(random) % 100000), random);
    }
    static const unsigned pieces[] = {1, 7, 300, 5000, 1 << 20, 1 << 20};
    c->piece = pieces[faults_random(random) % 6];
    if (c->piece < c->n_text / 500)
        c->piece = 300; /* else it would take thousands of rounds */
    c->is_slow = c->n_text < 1000 && faults_random(random) % 5 == 0;
    c->half_closes = faults_random(random) % 6 == 0;
    c->stays = (unsigned)(faults_random(random) % 30);
    if (c->manner == RUBBISH)
        for (unsigned i = 0; i < 3; i++)
            c->text[faults_random(random) % c->n_text] = (char)faults_random(random);
    if (c->manner == SILENT)
        c->n_text = faults_random(random) % c->n_text;
}

static void leave(client *c, score *score)
{
    unsigned before = score->n_lost + score->n_wrong;
    judge(c, score);
    if (getenv("ENGINE_SEEDS") && before < score->n_lost + score->n_wrong)
        printf(
            "  lost: asked %.*s, answered %u, sent %zu of %zu bytes in pieces of %u; status %u, state %d, %zu bytes of content\n",
            (int)c->n_asked, c->kinds, c->n_answered, c->n_sent, c->n_text, c->piece, c->status, (int)c->state,
            c->n_content);
    client_leave(c);
}

/* A few hundred clients come and go; then the good ones finish; then time passes until nobody is left. */
static void crowd(const scene *scene, uint64_t seed)
{
    static client clients[N_CLIENTS];
    enum {
        ROUNDS = 400,
        MORE_ROUNDS = 6000
    };
    int before = open_descriptors(), n_left = 0;
    score score = {0};
    server s;
    no_faults(seed);
    uint64_t random = faults.state;
    ka_policy policy = ka_policy_default;
    policy.timeout_ns[KA_BUSY] = scene->handler_ns;
    ka_capacity capacity = small_capacity(scene->max_connections);
    server_open(&s, &capacity, &policy, scene->max_buffer_bytes);
    memcpy(faults.permille, scene->permille, sizeof faults.permille);
    for (int i = 0; i < N_CLIENTS; i++)
        clients[i] = (client){.fd = -1};
    for (int round = 0; round < ROUNDS + MORE_ROUNDS; round++) {
        n_left = 0;
        for (int i = 0; i < N_CLIENTS; i++) {
            client *c = &clients[i];
            if (c->fd < 0 && round < ROUNDS && faults_random(&random) % 8 == 0)
                arrive(c, &s, scene, &random);
            if (c->fd >= 0 && !client_act(c, &random))
                leave(c, &score);
            n_left += c->fd >= 0 && c->manner == GOOD;
        }
        virtual_now += (int64_t)(faults_random(&random) % 16) * MS;
        step(&s);
        if (round >= ROUNDS && n_left == 0)
            break;
    }
    CHECK(ka_table_check(s.table) == NULL, "%s", ka_table_check(s.table));
    CHECK(n_left == 0, "%s, seed %d: %d good clients wait for ever", scene->name, (int)seed, n_left);
    for (int i = 0; i < N_CLIENTS; i++)
        if (clients[i].fd >= 0)
            leave(&clients[i], &score);
    memset(faults.permille, 0, sizeof faults.permille);
    for (int i = 0; i < 300 && (i < 3 || ka_table_open_count(s.table)); i++) {
        virtual_now += S;
        step(&s);
    }
    CHECK(score.n_wrong == 0, "%s, seed %d: %u clients were sent something else", scene->name, (int)seed,
          score.n_wrong);
    CHECK(score.n_good > 20, "%s, seed %d: %u good clients", scene->name, (int)seed, score.n_good);
    CHECK(score.n_whole > score.n_good / 4, "%s, seed %d: %u of %u", scene->name, (int)seed, score.n_whole,
          score.n_good);
    if (scene->loses_nothing)
        CHECK(score.n_lost <= s.counters.closed[KA_CAUSE_REJECTED],
              "%s, seed %d: %u of %u good clients lost a request, %u were turned away, %u evicted", scene->name,
              (int)seed, score.n_lost, score.n_good, score.n_turned_away, score.n_evicted);
    server_close(&s);
    CHECK(open_descriptors() == before, "%s, seed %d: %d descriptors more", scene->name, (int)seed,
          open_descriptors() - before);
    if (getenv("ENGINE_SEEDS"))
        printf("%-20s seed %d: %u good, %u whole, %u turned away, %u evicted, %u lost; %d faults\n", scene->name,
               (int)seed, score.n_good, score.n_whole, score.n_turned_away, score.n_evicted, score.n_lost,
               (int)(faults.n_made[0] + faults.n_made[1] + faults.n_made[2] + faults.n_made[3] + faults.n_made[4] +
                     faults.n_made[5]));
}

static void crowds(void)
{
    const char *seeds = getenv("ENGINE_SEEDS"), *scene = getenv("ENGINE_SCENE");
    int from = 1, to = 1;
    if (seeds && sscanf(seeds, "%d-%d", &from, &to) != 2)
        abort();
    for (int seed = from; seed <= to; seed++)
        for (size_t i = 0; i < sizeof scenes / sizeof scenes[0]; i++)
            if (scene == NULL || strcmp(scene, scenes[i].name) == 0)
                crowd(&scenes[i], (uint64_t)seed);
}

#endif
