"""Words that our own outputs consist of: alone they identify nobody, not even somebody who is called so."""

from .deidentified import words_of

# Of captions, tables, reports, codes, formats and styles, and names of folders that everybody has.
OURS = words_of("""
    ablation about above absolute absorbed accompanying action activity added additional affine against ahead air
    algorithm all alone alpha altered anatomical and anonymized anonymous anterior apart applicable application
    april are area around array art artificial ascent asks associated attributes attribution august author
    authorization autocast automatic average axes axial back background backprop band bar base basefont baseline
    baselines basic become becomes bed begin beginbfchar begincmap begincodespacerange below best beta better bias
    big bin binary bitspercomponent bitstream black blank block blue blur body bold bone border bottom box brain
    branch bright brown bundle button bytes call cam capheight car case cast catalog category cell center centre
    chain chance change changes channel channels character characters charge checksum chosen chunk cidinit
    cidsysteminfo claim class classifier clear clinic close cloud clrp cluster clusters cmap cmapname cmaptype code
    codecs col color colormap colorspace colour colours column complete completeness component composite concept
    conditions conductance confidentiality configuration constant contact contained container contains content
    contents context continuous contract contrastive contributors controls coordinatetransformations copies
    copyright corner corners coronal corridor count cpu create created creation creationdate creator cross csv ct
    cubic cuda current currentdict curve cval damage damages dark data datasets day dcm dcmr dead december decode
    deconvnet deep deeplift def default defined defineresource dejavu dejavusans deletion dense densenet department
    depends depth derivation derived descendants descent design designs desktop deviation device devicegray
    devicergb diagnosis dicom dict digest dimension disease display distribute distributed document documentation
    documents domain downloads drop dtype each east edge edges effect eigen either element empty encoding end
    endbfchar endcmap endcodespacerange endian endobj english eof equipment error even event exact except expected
    explain explained explanation export express extensive extent extremal face faces faithfulness false family
    features february fem field file files fill filter find finding findresource fine first firstchar fit flag flags
    flat flatedecode float following font fontbbox fontdescriptor fontname fonts for forest form format formxob
    foundation fraction frame frames free from full fullgrad further gain gamma gap gaussian general generated
    glyphs grad gradient gradients grant granted grants gray green grey grid grids ground group groups guided head
    health heart height helvetica hereby hfs hidden high highdicom higher hires hirescam hold home hospital house
    hsic html hu identifier identity ile image imagei images imaging img imported included including index indices
    indirect inferior influence info information initial inline input inputxgradient insertion instance institute
    integrated integratedgradients intelligence internal interpolate iso italicangle item itself january json july
    june keep kept kernel kernelshap key keywords kids label language large larger last lastchar layer left length
    lesion less level levels liability library license light lime limit limitation limited line linear list listed
    little liver long low lower lowered lowers lps lrp lung magnitude main manufacturer map maps march mark mask
    material max maximum may mean measure measured measurement measurements mediabox medical memory merge mesh
    method mib middle millimeter min minimum missing missingwidth mod modality moddate mode model modifications
    modified monai monochrome more most motion mr multiscales name names napari need neg negative neighbours network
    new nice nifti nm node noise none north not note notes notice notices november null num number numbers numpy obj
    object obs observer observers obtaining occlusion october ome one only opacity open opensource operation order
    ordering orders orientation original ot other others outlines output outside over overlap overlay package
    padding page pagemode pages parameter parameters parent part particular patch path patient pdf peak percent
    permission permit person persons perturbation phantom pickedclass pixel pixels place plane planes pm png point
    points policy pop pos position positive posterior power predicted prediction preliminary present price primary
    prior probability procedure process processing procset producer product profile promote provided pt public
    publish purpose pydicom python quantity question radiological radiology raise raises random range ras rather ray
    read reader reading record red reference referenced region regions regionscore registry regular related
    relational relevance relevant relu removed report reported reportlab reports reproduce research reserved reset
    resnet resolution resource resources respectively rest restored results rgb ridge right rights rise roi root
    rotate row run running sagittal saliency salient same sample samples sampling sans saved sc scale scan scanp
    scans scatter score sct secondary seconds section security seed seeds seg segment segmentation segmenter
    segments segresnet separator september serial series set settings shade shall shap shape shapley share shares
    shot show shown shows side sigma sign signed silver single size slice slices small smaller smask smoe smooth
    smoothgrad sobol soft software solid source south space spatial special spleen spread squaregrad sr src stack
    start startxref states station stemv step steps storage stride stripe structures study style subject subtype sum
    superior supervoxels supplement swin table taken target taylor template terms test tester text than that the
    they thick thickness this threshold through time tiny tip tissue title together tolerance top torch total touch
    touching tounicode track tracking trade trademark trailer trans transform transformers translation trapped tree
    true truetype tumor tumour type types ucum uid uidref unaltered under unet unique unit united units university
    unknown unsafe unseen unverified update us use used usenone user users utf value values vargrad version versions
    view viewport visible volume volumes voxel voxels warm warning warnings warranty was water way weight west what
    where whether which while white whose why wide width widths will winansiencoding window windows with within
    without word words work written xai xgrad xobject xrai yellow yes young zarr zero zstd
    """)

# What our outputs say in several words, which stand one after the other: whoever is called so is not meant.
TITLES = (
    "input gradient", "input x gradient", "integrated gradients", "expected gradients",
    "gradient shap", "deeplift shap", "kernel shap", "grad cam", "smooth grad cam", "guided grad cam", "xgrad cam",
    "ablation cam", "eigen cam", "layer cam", "score cam", "is cam", "hires cam", "guided backprop", "guided ig",
    "blur ig", "contrastive lrp", "extremal perturbation", "internal influence", "salient relevance", "smoe scale",
    "shapley sampling", "sobol indices", "random map", "layer attribution", "at a layer", "the scan itself",
    "alpha beta", "dejavu sans",
)  # fmt: skip
