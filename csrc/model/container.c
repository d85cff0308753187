/* Opens a .flm file: maps it, validates everything but the weights themselves, and lets a model's slots point into
 * it. docs/container-format.md describes the bytes; fastlm/weights/container.py writes them. Every offset and length
 * comes from an untrusted file, so each is checked against the file's size before it is used, in an order in which
 * no sum can overflow. */
#include "container.h"

#include <errno.h>
#include <string.h>

#include "../format/matrix.h"
#include "../base/memory.h"
#include "../base/status.h"

#define FLM_FILE_VERSION 1u

static const unsigned char file_magic[8] = {0x89, 'F', 'L', 'M', '\r', '\n', 0x1A, '\n'};

/* The file's structures, little-endian and naturally aligned: on a little-endian machine they are these structs.
 * They are copied out by memcpy, so the mapping's alignment does not matter. */
typedef struct file_header {
    unsigned char magic[8];
    uint32_t version, n_sections;
    uint64_t file_bytes;
    uint32_t crc; /* of header and section table but for this field */
    uint32_t zero[9];
} file_header;

typedef struct file_section {
    uint32_t kind, crc; /* crc of the section's bytes; of SECTION_PAYLOAD 0: its tensors have their own */
    uint64_t offset, bytes;
} file_section;

typedef struct file_tensor {
    char name[64]; /* padded with zeros */
    uint32_t rows, cols, format, layout;
    uint64_t offset, bytes;
    uint32_t crc, zero;
} file_tensor;

typedef struct file_vocabulary { /* then offsets, eos, special, bytes */
    uint32_t n_tokens, n_eos, strip_first_space;
    int32_t bos, decoder_start;
    uint32_t zero;
} file_vocabulary;

enum section_kind {
    SECTION_SPEC = 1,
    SECTION_INDEX = 2,
    SECTION_PAYLOAD = 3,
    SECTION_VOCABULARY = 4,
    SECTION_FILE = 5, /* for Python: any number of them */
    SECTION_KINDS = 6
};

enum { MAX_SECTIONS = 64, LAYOUT_ROWS = 0, LAYOUT_I4_IN_ORDER = 6, LAYOUT_I8_ROTATED = 7 };

typedef struct container {
    const unsigned char *file;
    size_t n_bytes;
    file_section sections[SECTION_KINDS]; /* bytes 0: absent */
    size_t n_tensors;
    flm_error *error;
} container;

/* Whether a section that starts at `offset` follows one that ends at `end`: with nothing but padding to 64 between
 * them. */
static int follows(uint64_t end, uint64_t offset) {
    return end <= UINT64_MAX - (FLM_ALIGN - 1) && offset == (end + FLM_ALIGN - 1) / FLM_ALIGN * FLM_ALIGN;
}

static flm_status read_table(container *c, const file_header *header) {
    /* Sections must follow each other without gaps, so every byte of the file belongs to something that is checked. */
    uint64_t end = sizeof *header + header->n_sections * sizeof(file_section);
    for (uint32_t i = 0; i < header->n_sections; i++) {
        file_section s;
        memcpy(&s, c->file + sizeof *header + i * sizeof s, sizeof s);
        if (s.kind < SECTION_SPEC || s.kind >= SECTION_KINDS || (s.kind != SECTION_FILE && c->sections[s.kind].bytes))
            return flm_fail(c->error, FLM_ERR_FORMAT, "section %u: its kind %u is unknown or there twice", (unsigned)i,
                            (unsigned)s.kind);
        if (!follows(end, s.offset) || s.offset > c->n_bytes || s.bytes == 0 || s.bytes > c->n_bytes - s.offset)
            return flm_fail(c->error, FLM_ERR_FORMAT,
                            "section %u: is empty, does not follow the one before it or ends outside of the file",
                            (unsigned)i);
        end = s.offset + s.bytes;
        c->sections[s.kind] = s;
    }
    if (end != c->n_bytes) return flm_fail(c->error, FLM_ERR_FORMAT, "has bytes that belong to no section");
    for (int kind = SECTION_SPEC; kind <= SECTION_PAYLOAD; kind++)
        if (!c->sections[kind].bytes) return flm_fail(c->error, FLM_ERR_FORMAT, "has no section of kind %d", kind);
    return FLM_OK;
}

static flm_status read_header(container *c, const flm_crc32 *tables) {
    file_header header;
    if (c->n_bytes < sizeof header || memcmp(c->file, file_magic, sizeof file_magic) != 0)
        return flm_fail(c->error, FLM_ERR_FORMAT, "is not a .flm file (or was altered as if it were text)");
    memcpy(&header, c->file, sizeof header);
    if (header.version != FLM_FILE_VERSION)
        return flm_fail(c->error, FLM_ERR_UNSUPPORTED, "has format version %u; this library reads %u: convert again",
                        (unsigned)header.version, FLM_FILE_VERSION);
    if (header.file_bytes != c->n_bytes)
        return flm_fail(c->error, FLM_ERR_FORMAT, "has %zu bytes instead of %llu: it was cut short or added to",
                        c->n_bytes, (unsigned long long)header.file_bytes);
    /* Bounds the table before its size is computed. */
    if (header.n_sections > MAX_SECTIONS || header.n_sections > (c->n_bytes - sizeof header) / sizeof(file_section))
        return flm_fail(c->error, FLM_ERR_FORMAT, "cannot have %u sections", (unsigned)header.n_sections);
    size_t table_end = sizeof header + header.n_sections * sizeof(file_section);
    size_t crc_at = offsetof(file_header, crc), crc_end = crc_at + sizeof header.crc;
    uint32_t crc = flm_crc32_update(tables, 0, c->file, crc_at);
    if (flm_crc32_update(tables, crc, c->file + crc_end, table_end - crc_end) != header.crc)
        return flm_fail(c->error, FLM_ERR_FORMAT, "is damaged: the checksum of its header is wrong");
    return read_table(c, &header);
}

static flm_status check_section(const container *c, const flm_crc32 *tables, int kind, const char *name) {
    const file_section *s = &c->sections[kind];
    if (flm_crc32_update(tables, 0, c->file + s->offset, (size_t)s->bytes) == s->crc) return FLM_OK;
    return flm_fail(c->error, FLM_ERR_FORMAT, "is damaged: the checksum of its %s is wrong", name);
}

static file_tensor tensor_at(const container *c, size_t i) {
    file_tensor t;
    memcpy(&t, c->file + c->sections[SECTION_INDEX].offset + i * sizeof t, sizeof t);
    return t;
}

/* Counts the tensors and checks their formats. *format: the narrowest format of the matrices. */
static flm_status read_index(container *c, flm_format *format) {
    uint64_t bytes = c->sections[SECTION_INDEX].bytes;
    if (bytes % sizeof(file_tensor)) return flm_fail(c->error, FLM_ERR_FORMAT, "its tensor index has an odd size");
    c->n_tensors = (size_t)bytes / sizeof(file_tensor);
    uint32_t narrowest = 0;
    for (size_t i = 0; i < c->n_tensors; i++) {
        file_tensor t = tensor_at(c, i);
        if (t.layout == LAYOUT_ROWS) continue;
        if (!flm_format_valid(t.format))
            return flm_fail(c->error, FLM_ERR_UNSUPPORTED, "tensor %zu: this library does not know its format %u", i,
                            (unsigned)t.format);
        if (t.format > narrowest) narrowest = t.format;
    }
    *format = (flm_format)narrowest;
    if (!narrowest) return flm_fail(c->error, FLM_ERR_FORMAT, "its tensor index has no matrix");
    return FLM_OK;
}

/* The layout number of a format's strips. The first layout of a format has the format's number. */
static uint32_t layout_of(flm_format format) {
    if (format == FLM_FORMAT_I8) return LAYOUT_I8_ROTATED;
    return format == FLM_FORMAT_I4 ? LAYOUT_I4_IN_ORDER : (uint32_t)format;
}

static flm_status bind_tensor(const container *c, flm_model *model, size_t i, uint64_t *end) {
    file_tensor t = tensor_at(c, i);
    flm_slot *slot = t.name[sizeof t.name - 1] ? NULL : flm_model_find_slot(model, t.name);
    if (!slot || slot->data)
        return flm_fail(c->error, FLM_ERR_FORMAT, "tensor %zu: the spec has no slot of its name, or it comes twice", i);
    if (t.layout != (slot->is_matrix ? layout_of((flm_format)t.format) : LAYOUT_ROWS) ||
        (!slot->is_matrix && t.format != FLM_FORMAT_F32))
        return flm_fail(c->error, FLM_ERR_UNSUPPORTED,
                        "%s: has format %u and layout %u, which this library does not read: convert again", slot->name,
                        (unsigned)t.format, (unsigned)t.layout);
    flm_status status = flm_slot_set_format(slot, (flm_format)t.format, c->error);
    if (status != FLM_OK) return status;
    if (t.rows != slot->rows || t.cols != slot->cols || t.bytes != slot->bytes)
        return flm_fail(c->error, FLM_ERR_FORMAT, "%s: is %u x %u in %llu bytes; the spec asks for %u x %u in %llu",
                        slot->name, (unsigned)t.rows, (unsigned)t.cols, (unsigned long long)t.bytes,
                        (unsigned)slot->rows, (unsigned)slot->cols, (unsigned long long)slot->bytes);
    const file_section *payload = &c->sections[SECTION_PAYLOAD];
    /* The payload's end is known to be inside of the file; compared without sums that could overflow. */
    uint64_t payload_end = payload->offset + payload->bytes;
    if (!follows(*end, t.offset) || t.offset > payload_end || t.bytes > payload_end - t.offset)
        return flm_fail(c->error, FLM_ERR_FORMAT,
                        "%s: does not follow the tensor before it or ends outside of the file", slot->name);
    slot->data = (unsigned char *)(uintptr_t)(c->file + t.offset); /* a mapped slot is never written */
    slot->crc = t.crc;
    *end = t.offset + t.bytes;
    return FLM_OK;
}

static flm_status bind_tensors(const container *c, flm_model *model) {
    if (c->n_tensors != model->n_slots)
        return flm_fail(c->error, FLM_ERR_FORMAT, "has %zu tensors; the spec asks for %zu", c->n_tensors,
                        model->n_slots);
    const file_section *payload = &c->sections[SECTION_PAYLOAD];
    uint64_t end = payload->offset;
    for (size_t i = 0; i < c->n_tensors; i++) {
        flm_status status = bind_tensor(c, model, i, &end);
        if (status != FLM_OK) return status;
    }
    if (end != payload->offset + payload->bytes)
        return flm_fail(c->error, FLM_ERR_FORMAT, "has payload bytes that belong to no tensor");
    return FLM_OK;
}

static flm_status set_vocabulary(const container *c, flm_model *model) {
    const file_section *s = &c->sections[SECTION_VOCABULARY];
    if (!s->bytes) return FLM_OK;
    file_vocabulary v;
    uint64_t left = s->bytes;
    if (left < sizeof v) return flm_fail(c->error, FLM_ERR_FORMAT, "its vocabulary is cut short");
    memcpy(&v, c->file + s->offset, sizeof v);
    left -= sizeof v;
    /* Two 32-bit counts times at most 9 stay far below 2^64. */
    uint64_t offsets_bytes = 8 * ((uint64_t)v.n_tokens + 1), eos_bytes = 4 * (uint64_t)v.n_eos;
    if (offsets_bytes + eos_bytes + v.n_tokens > left)
        return flm_fail(c->error, FLM_ERR_FORMAT, "its vocabulary is cut short");
    left -= offsets_bytes + eos_bytes + v.n_tokens;
    const unsigned char *at = c->file + s->offset + sizeof v;
    flm_vocabulary vocabulary = {.size_bytes = sizeof vocabulary,
                                 .n_tokens = v.n_tokens,
                                 .offsets = (const uint64_t *)(const void *)at, /* aligned: the section is */
                                 .eos = (const int32_t *)(const void *)(at + offsets_bytes),
                                 .n_eos = v.n_eos,
                                 .special = at + offsets_bytes + eos_bytes,
                                 .bytes = at + offsets_bytes + eos_bytes + v.n_tokens,
                                 .strip_first_space = v.strip_first_space,
                                 .bos = v.bos,
                                 .decoder_start = v.decoder_start};
    if (vocabulary.offsets[v.n_tokens] != left)
        return flm_fail(c->error, FLM_ERR_FORMAT, "its vocabulary's last offset is not the length of its text");
    flm_status status = flm_detok_copy(&model->vocabulary, &vocabulary, model->spec.vocab, c->error);
    return status == FLM_ERR_ARGUMENT ? FLM_ERR_FORMAT : status; /* the file's mistake, not the caller's */
}

/* Threads take slots in turn; each stops at the first damaged one that it finds. */
void flm_verify_team(void *argument, unsigned thread, unsigned n_threads) {
    flm_verify_job *job = argument;
    for (size_t i = thread; i < job->model->n_slots && !job->damaged[thread]; i += n_threads) {
        const flm_slot *slot = &job->model->slots[i];
        if (flm_crc32_update(&job->tables, 0, slot->data, (size_t)slot->bytes) != slot->crc)
            job->damaged[thread] = slot;
    }
}

/* Everything after mapping. The caller unmaps the file if *model stays NULL. */
static flm_status open_mapped(container *c, flm_context *context, const flm_kernels *kernels,
                              const flm_model_options *given, flm_model **model) {
    flm_crc32 tables;
    flm_model_options options = *given;
    flm_crc32_prepare(&tables);
    flm_status status = read_header(c, &tables);
    if (status == FLM_OK) status = check_section(c, &tables, SECTION_SPEC, "spec");
    if (status == FLM_OK) status = check_section(c, &tables, SECTION_INDEX, "tensor index");
    if (status == FLM_OK) status = check_section(c, &tables, SECTION_VOCABULARY, "vocabulary");
    if (status == FLM_OK) status = read_index(c, &options.format);
    const file_section *spec = &c->sections[SECTION_SPEC];
    if (status == FLM_OK)
        status =
            flm_model_prepare(context, kernels, c->file + spec->offset, (size_t)spec->bytes, &options, model, c->error);
    if (status != FLM_OK) return status;
    (*model)->mapping = c->file; /* from here on the model unmaps it */
    (*model)->mapping_bytes = c->n_bytes;
    status = bind_tensors(c, *model);
    return status == FLM_OK ? set_vocabulary(c, *model) : status;
}

flm_status flm_container_map(flm_context *context, const flm_kernels *kernels, const char *path,
                             const flm_model_options *options, flm_model **model, flm_error *error) {
    container c = {.error = error};
    const void *file;
    *model = NULL;
    int failure = flm_map_file(path, &file, &c.n_bytes);
    if (failure) {
        char reason[128];
        return flm_fail(error, failure == ENOMEM ? FLM_ERR_MEMORY : FLM_ERR_IO, "cannot be opened: %s",
                        flm_errno_text(failure, reason, sizeof reason));
    }
    c.file = file;
    flm_status status = open_mapped(&c, context, kernels, options, model);
    if (status == FLM_OK) return FLM_OK;
    if (*model)
        flm_model_free(*model);
    else
        flm_unmap_file(file, c.n_bytes);
    *model = NULL;
    return status;
}
