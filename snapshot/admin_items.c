/* Snapshots with what names and uses say of them: for `ls` and for who collects. */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "snapshot/admin.h"
#include "snapshot/use.h"

struct names {
    struct snap_name *all;
    size_t n, capacity;
    bool failed;
};

static bool names_visit(void *context, const struct snap_name *name)
{
    struct names *names = context;
    if (names->n == names->capacity) {
        size_t capacity = names->capacity ? 2 * names->capacity : 16;
        void *more = realloc(names->all, capacity * sizeof(*names->all));
        if (!more) {
            names->failed = true;
            return false;
        }
        names->all = more;
        names->capacity = capacity;
    }
    names->all[names->n++] = *name;
    return true;
}

/* What the version means for the snapshot; of several names the strongest word counts. */
static void item_take(struct snap_admin_item *item, const struct snap_name *name, const struct snap_version *v)
{
    if (item->version[0] == '\0') {
        memcpy(item->name, name->name, sizeof(item->name));
        memcpy(item->version, v->version, sizeof(item->version));
        item->rank = name->n_versions - 1 - (uint32_t)(v - name->versions);
    }
    item->active = item->active || v->active;
    item->pinned = item->pinned || v->pinned;
    item->previous = item->previous || strcmp(name->previous, v->version) == 0;
    item->weight = v->weight > item->weight ? v->weight : item->weight;
    item->newest = item->newest || (!v->active && v->weight == 0 && snap_name_route(name, "", NULL, 0) == v);
}

static void item_name(struct snap_admin_item *item, const struct names *names)
{
    const struct schema_snapshot_record *r = &item->record;
    memcpy(item->name, r->name, sizeof(item->name));
    for (int own = 1; own >= 0; own--) { /* the record's own name first */
        for (size_t i = 0; i < names->n; i++) {
            const struct snap_name *name = &names->all[i];
            const struct snap_version *v = snap_name_find_digest(name, r->model_digest);
            if (v && (strcmp(name->name, r->name) == 0) == (own == 1))
                item_take(item, name, v);
        }
    }
}

static void item_uses(struct snap_store *store, struct snap_admin_item *item, const char *path)
{
    struct stat st;
    item->stored_bytes = stat(path, &st) == 0 ? (uint64_t)st.st_blocks * 512 : 0;
    item->last_used_ms = snap_use_last_ms(store, item->record.id);
    item->held = snap_use_is_held(store, item->record.id, path);
}

static void items_fill(struct snap_store *store, const struct names *names, struct snap_admin_item *items, size_t n)
{
    bool answers = true;
    for (size_t i = 0; i < n; i++) {
        char path[PATH_MAX];
        item_name(&items[i], names);
        if (items[i].record.state != SCHEMA_SNAPSHOT_READY) /* its marks are of the one that is ready */
            items[i].active = items[i].pinned = items[i].previous = items[i].newest = false;
        if (base_file_join(path, sizeof(path), store->dir, items[i].record.file, NULL) < 0)
            continue;
        item_uses(store, &items[i], path);
        if (answers) /* asked once more in vain, it would be waited for again */
            answers = snap_use_count(store, items[i].record.id, &items[i].n_uses, NULL) == 0;
        items[i].uses_known = answers;
    }
}

int snap_admin_items(struct snap_store *store, struct snap_admin_item **out_items, size_t *out_n,
                     struct base_error *err)
{
    struct schema_snapshot_record *records = NULL;
    struct names names = {.all = NULL};
    uint32_t n_unreadable = 0;
    size_t n = 0;
    int rc = snap_admin_list(store, &records, &n, err);
    if (rc == 0)
        rc = snap_names_each(store, names_visit, &names, &n_unreadable, err);
    struct snap_admin_item *items = rc == 0 ? calloc(n ? n : 1, sizeof(*items)) : NULL;
    if (rc == 0 && (!items || names.failed))
        rc = base_fail(err, ERR_NOMEM, "list store %s: out of memory", store->name);
    for (size_t i = 0; rc == 0 && i < n; i++) {
        items[i].record = records[i];
        items[i].names_known = n_unreadable == 0;
    }
    if (rc == 0)
        items_fill(store, &names, items, n);
    free(records);
    free(names.all);
    if (rc < 0) {
        free(items);
        return rc;
    }
    *out_items = items;
    *out_n = n;
    return 0;
}
