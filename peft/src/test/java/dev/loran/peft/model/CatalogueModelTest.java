package dev.loran.peft.model;

import static org.assertj.core.api.Assertions.assertThat;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.peft.data.Catalogue;
import dev.loran.peft.hf.HfModels;
import dev.loran.peft.model.encoder.BertModel;
import java.nio.file.Files;
import org.junit.jupiter.api.Test;

/// A pretrained encoder of the catalogue, if its artifact is available.
class CatalogueModelTest {
    /// "buy cheap running shoes online", compared with the embedding from ONNX Runtime and the artifact's own graph.
    @Test
    void miniLmGivesItsEmbedding() {
        Catalogue.Entry entry = Catalogue.find("minilm").orElseThrow();
        assumeTrue(
                Files.exists(Catalogue.cacheFolder().resolve(entry.jarName())),
                "the artifact of minilm is not in the cache folder");
        double[] first = {-0.00554776, -0.00013737, 0.01281868, 0.0385731, 0.02322554, -0.03935164};
        ReferenceBackend backend = new ReferenceBackend();
        try (Scope scope = Scope.open();
                BertModel model = (BertModel) HfModels.load(Catalogue.folder(entry), backend)) {
            assertThat(model.task()).isEqualTo(TaskType.FEATURE_EXTRACTION);
            Tensor ids = Tensor.ofInts(backend, new int[] {101, 4965, 10036, 2770, 6007, 3784, 102}, 1, 7);
            double[] embedding = model.embeddings(ids, null, true).toDoubles();
            assertThat(embedding).hasSize(384);
            for (int i = 0; i < first.length; i++) {
                assertThat(Math.abs(embedding[i] - first[i])).as("element " + i).isLessThan(1e-5);
            }
        }
        assertThat(backend.liveBuffers()).isZero();
    }
}
